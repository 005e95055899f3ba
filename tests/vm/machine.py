"""The emulated machine: it runs one command and ends with the command's exit status.

It is emulated in software (TCG), also where the processor supports virtualization. The tests need
the same machine everywhere, and /dev/kvm is never opened; it is hidden in qemu's mount namespace.
The machine has one processor. Several processors are slower to emulate, and one processor schedules
processes in another order than the outer machine.
"""

from __future__ import annotations

import os
import select
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
"""Factor by which deadlines are longer there than on a real processor (tests/patience.py)."""
TIMED_OUT = 124
"""Exit status after the time limit, as of timeout(1)."""

SILENCE_BEFORE_TESTS_S = 240
SILENCE_LIMIT_S = 600
"""Time without any output after which the machine has stopped; no test takes as long."""

_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check "
    "tsc=reliable nowatchdog random.trust_cpu=on rcupdate.rcu_expedited=1 "
    "norandmaps init_on_alloc=0 clearcpuid=rep_good"
)
"""Arguments of the kernel.

Those of the last line make it faster to emulate. A program has the same addresses in each process,
so qemu translates its code once. Allocated memory is not zeroed twice, and the kernel copies pages
with ordinary instructions, because qemu emulates a repeated instruction word by word.
"""

TESTS_BEGIN = b"test session starts"
"""Words in the first line that pytest prints."""


class MachineStoppedError(VmError):
    """The emulated machine printed nothing for a long time.

    tests_have_begun: whether pytest had begun by then.
    """

    def __init__(self, tests_have_begun: bool) -> None:
        """Keep whether pytest had begun."""
        self.tests_have_begun = tests_have_begun
        limit_s = SILENCE_LIMIT_S if tests_have_begun else SILENCE_BEFORE_TESTS_S
        super().__init__(f"the emulated machine printed nothing for {limit_s} s")


def run(
    kernel: Kernel, command: Sequence[str], environment: Mapping[str, str], limit_s: int
) -> int:
    """Run a command in this process's working directory on the other kernel.

    Its output goes to standard output. Return its exit status, or TIMED_OUT. Raise VmError if the
    machine ends before the command, or MachineStoppedError if it stops without an end.
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
            exit_status = _run_qemu(_qemu(kernel.image, archive, socket, status), limit_s)
        if exit_status is None:
            return TIMED_OUT
        if not (reported_status := status.read_text().strip() if status.exists() else ""):
            raise VmError(
                f"the machine ended without reporting a status; qemu's exit status is {exit_status}"
            )
        return int(reported_status)


def _run_qemu(command: Sequence[str], limit_s: int) -> int | None:
    """Copy the output of qemu until it ends; return its exit status, or None after the limit.

    It is killed, because it does not react to SIGTERM while it waits for the file server. Raise
    MachineStoppedError if it prints nothing for too long.
    """
    deadline = time.monotonic() + limit_s
    tests_have_begun = False
    qemu = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=_enter_private_mount_namespace,
    )
    assert qemu.stdout is not None
    try:
        with qemu.stdout as output:
            while (remaining_s := deadline - time.monotonic()) > 0:
                silence_limit_s = SILENCE_LIMIT_S if tests_have_begun else SILENCE_BEFORE_TESTS_S
                if not select.select([output], [], [], min(remaining_s, silence_limit_s))[0]:
                    if remaining_s > silence_limit_s:
                        raise MachineStoppedError(tests_have_begun)
                    continue
                chunk = os.read(output.fileno(), 65536)
                if not chunk:
                    return qemu.wait()
                tests_have_begun |= TESTS_BEGIN in chunk
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
    finally:
        qemu.kill()
        qemu.wait()
    return None


def _job(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the script that finally becomes the machine's first process.

    It runs the command, reports its status, and turns the machine off.
    """
    return "\n".join(
        (
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            f"cd {shlex.quote(os.getcwd())}",
            "stty -onlcr",
            shlex.join(command) + " </dev/null",
            "echo $? >/dev/ttyS1",
            "echo 0 >/proc/sys/kernel/printk",  # suppress the kernel's message about power-off
            "exec busybox poweroff -f",
            "",
        )
    )


@contextmanager
def _file_server(root: Path, socket: Path) -> Iterator[None]:
    """Run virtiofsd, which serves this machine's files, during the block.

    root: an empty directory, which only virtiofsd sees filled.
    """
    program = shutil.which("virtiofsd")
    if program is None:
        raise VmError(
            "there is no virtiofsd: apt-get install virtiofsd, "
            "or qemu-system-common where that contains it"
        )
    command = [
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
    log_file = Path(f"{socket}.log")
    with log_file.open("wb") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: _mount_files(root),
        )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise VmError(
                    f"{program} does not serve this machine's files\n{log_file.read_text()}"
                )
            time.sleep(0.01)
        yield
    finally:
        server.kill()
        server.wait()


def _enter_private_mount_namespace() -> None:
    """Enter a private mount namespace without /dev/kvm."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    if os.path.exists("/dev/kvm"):
        syscalls.mount("/dev/null", "/dev/kvm", flags=syscalls.MS_BIND)


def _mount_files(root: Path) -> None:
    """Enter a private mount namespace with this machine's files below `root`, read-only."""
    _enter_private_mount_namespace()
    syscalls.mount("/", str(root), flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.make_read_only(str(root))


def _qemu(image: Path, archive: Path, socket: Path, status: Path) -> list[str]:
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi,tb-size=512"),
        *("-machine", "q35", "-cpu", "qemu64", "-smp", "1", "-m", MEMORY),
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-numa", "node,memdev=memory"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-net", "none"),
        *("-device", "virtio-rng-pci"),
        *("-chardev", f"socket,id=files,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=files"),
        *("-serial", "stdio", "-serial", f"file:{status}"),
        *("-kernel", str(image), "-initrd", str(archive), "-append", _KERNEL_ARGUMENTS),
    ]


def environment() -> dict[str, str]:
    """Return the environment of the command there."""
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
