"""A second kernel for tests: Debian's own with its modules, in a machine that qemu emulates.

The command is `scripts/vm-test`. The machine sees this machine's files, and its changes of them are
discarded. It has no network, and one job: `pytest -m "vm or kernel"`.

    debian.py     the kernel and its modules, unpacked, never installed
    initramfs.py  the initial files of the kernel: init.sh, some modules, busybox, the job
    machine.py    qemu, its file server and its end
"""
