"""The emulated machine: started with a command, it ends with the command's exit status.

It is emulated in software (TCG), also where the processor could do it: the tests ask for the same
machine everywhere, and /dev/kvm is never opened; in the mount namespace of qemu there is none. It
has one processor: several make each of them slower, and with one, things happen in another order
than on the machine around it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kubenetlab.kernel import syscalls
from tests.vm.debian import Kernel, VmError
from tests.vm.initramfs import initramfs

MEMORY = "1536M"
PATIENCE = 10
"""How many times as long as on a real processor things may take there (tests/patience.py)."""
TIMED_OUT = 124
"""As timeout(1) says it."""

_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable nowatchdog "
    "random.trust_cpu=on rcupdate.rcu_expedited=1"
)


def run(
    kernel: Kernel, command: Sequence[str], environment: Mapping[str, str], limit_s: int
) -> int:
    """Runs a command in the working directory of this process, on the other kernel.

    Its exit status, or TIMED_OUT.

    What it prints goes to standard output. Raises VmError when the machine ended before the command
    did.
    """
    with tempfile.TemporaryDirectory(prefix="kubenetlab-vm-") as scratch:
        root, archive, status, socket = (
            Path(scratch, name) for name in ("root", "initramfs", "status", "files.sock")
        )
        root.mkdir()
        job = _job(command, environment).encode()
        needed = kernel.with_dependencies("virtio_pci", "virtiofs", "overlay")
        archive.write_bytes(
            initramfs(needed, {"job": job, "modules-directory": str(kernel.modules).encode()})
        )
        with _file_server(root, socket):
            words = _qemu(kernel.image, archive, socket, status)
            limited = ["timeout", "--foreground", str(limit_s), *words]
            done = subprocess.run(limited, stdin=subprocess.DEVNULL, check=False, preexec_fn=_leave)
        if done.returncode == TIMED_OUT:
            return TIMED_OUT
        if not (said := status.read_text().strip() if status.exists() else ""):
            raise VmError(
                f"the machine ended without a word; qemu's exit status is {done.returncode}"
            )
        return int(said)


def _job(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The shell script that is the machine's first process in the end: it runs the command, writes
    its status, and turns the machine off.
    """
    return "\n".join(
        (
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            f"cd {shlex.quote(os.getcwd())}",
            "stty -onlcr",
            shlex.join(command) + " </dev/null",
            "echo $? >/dev/ttyS1",
            "echo 0 >/proc/sys/kernel/printk",  # else the kernel says that the power is off
            "exec busybox poweroff -f",
            "",
        )
    )


@contextmanager
def _file_server(root: Path, socket: Path) -> Iterator[None]:
    """virtiofsd, which serves this machine's files, listening for the length of the block.

    root: an empty directory, and empty it stays for everybody but virtiofsd.
    """
    program = shutil.which("virtiofsd")
    if program is None:
        raise VmError(
            "there is no virtiofsd: apt-get install virtiofsd, or qemu-system-common where that has it"
        )
    words = [
        program,
        f"--socket-path={socket}",
        "--thread-pool-size=1",
        "-o",
        f"source={root}",
        "-o",
        "cache=always",
        "-o",
        "sandbox=chroot",
    ]
    said = Path(f"{socket}.log")
    with said.open("wb") as log:
        server = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: _see_files(root),
        )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise VmError(f"{program} does not serve this machine's files\n{said.read_text()}")
            os.sched_yield()
        yield
    finally:
        server.kill()
        server.wait()


def _leave() -> None:
    """Into a mount namespace without /dev/kvm, which nobody else sees."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    if os.path.exists("/dev/kvm"):
        syscalls.mount("/dev/null", "/dev/kvm", flags=syscalls.MS_BIND)


def _see_files(root: Path) -> None:
    """Into one that has all of this machine's files below `root`, read-only."""
    _leave()
    syscalls.mount("/", str(root), flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.make_read_only(str(root))


def _qemu(image: Path, archive: Path, socket: Path, status: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-machine", "q35", "-cpu", "qemu64", "-smp", "1",
        "-m", MEMORY, "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on", "-numa", "node,memdev=memory",
        "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-net", "none", "-device", "virtio-rng-pci",
        "-chardev", f"socket,id=files,path={socket}", "-device", "vhost-user-fs-pci,chardev=files,tag=files",
        "-serial", "stdio", "-serial", f"file:{status}",
        "-kernel", str(image), "-initrd", str(archive), "-append", _KERNEL_ARGUMENTS,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """What the command finds in its environment there."""
    on_terminal = sys.stdout.isatty()
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "TERM": os.environ.get("TERM", "dumb") if on_terminal else "dumb",
        "COLUMNS": str(shutil.get_terminal_size().columns),
        "PY_COLORS": "1" if on_terminal else "0",
        "KUBENETLAB_VENV": sys.prefix,
        "KUBENETLAB_VM": "1",
        "KUBENETLAB_PATIENCE": str(PATIENCE),
    }
