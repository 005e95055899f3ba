"""A second kernel to test on: Debian's own, with its modules, in a machine that qemu emulates; `scripts/vm-test` is its command.

The machine has this machine's files (whatever it changes is gone with it), no network, and one job: `pytest -m "vm or kernel"`.

  debian.py     the kernel and its modules, unpacked beside, never installed
  initramfs.py  what the kernel starts with: init.sh, a few modules, busybox, the job
  machine.py    qemu, its files and its end
"""
