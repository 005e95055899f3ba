"""The attributes that a process inherits from its caller, and how the processes of a lab get rid of them.

A lab outlives the command that makes it, and containers run programs that the caller does not control. Neither may keep a lock, a
pipe or a directory of the caller open, or behave differently because the caller ignores a signal.

Reset: descriptors other than the standard ones, ignored signals, the signal mask, the umask, the working directory, soft limits,
inheritable and ambient capabilities, the session keyring. Kept: the nice value, the scheduling policy, the CPU affinity, hard limits and cgroups, because
users set them for the lab on purpose; `hindrances` names the values that harm a lab.

Source: execve(2), fork(2), signal(7), capabilities(7), getrlimit(2), sched(7), close_range(2).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from kubenetlab.kernel import syscalls

UMASK: Final = 0o022
"""The umask of the processes of a lab."""
CONTAINER_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of programs inside a lab, where nothing else is said; the caller's may lead to the caller's own directories."""
_FIRST_OTHER: Final = 3
"""The lowest descriptor that is not a standard one."""
_LAST: Final = 2**32 - 1
_IGNORED_BY_PYTHON: Final = frozenset((signal.SIGPIPE, signal.SIGXFSZ))
"""Python reports these as errors of system calls (Python/pylifecycle.c)."""
_KEPT_LIMITS: Final = frozenset((resource.RLIMIT_CORE, resource.RLIMIT_STACK))
"""Soft limits that a raise would harm: crashing programs would write core files, and an unlimited stack changes the layout of the
address space and the stacks of threads."""
_STACK_BYTES: Final = 8 << 20
"""The kernel's default for the soft limit of the stack (include/uapi/linux/resource.h _STK_LIM)."""


def start_afresh(keep: Iterable[int] = ()) -> None:
    """Reset everything that this process has inherited, but for what this module documents as kept.

    keep: descriptors that stay open beside the standard ones.
    """
    close_other_descriptors(keep)
    reset_signals()
    os.umask(UMASK)
    raise_soft_limits()
    syscalls.join_new_session_keyring()
    sys.path[:] = map(os.path.abspath, sys.path)  # later imports must find the same modules
    os.chdir("/")  # the caller's directory could not be unmounted otherwise


@contextmanager
def default_umask() -> Iterator[None]:
    """Create files with the permissions that the code asks for within the block, whatever the caller's umask."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


def close_other_descriptors(keep: Iterable[int] = ()) -> None:
    """Close every descriptor but the standard ones and those in `keep`."""
    first = _FIRST_OTHER
    for fd in sorted({fd for fd in keep if fd >= _FIRST_OTHER}):
        _close_range(first, fd - 1)
        first = fd + 1
    _close_range(first, _LAST)


def reset_signals(*, of_python: bool = False) -> None:
    """Give ignored signals their default action and unblock all signals.

    of_python: include the signals that Python itself ignores. For a process that is about to become another program.
    """
    kept = frozenset() if of_python else _IGNORED_BY_PYTHON
    for number in signal.valid_signals() - kept:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def raise_soft_limits() -> None:
    """Raise soft limits to the hard ones; the stack's only to the kernel's default."""
    for limit in _limits():
        soft, hard = resource.getrlimit(limit)
        enough = hard if limit not in _KEPT_LIMITS else soft
        if limit == resource.RLIMIT_STACK and 0 <= soft < _STACK_BYTES:
            enough = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
        if enough != soft:
            with suppress(OSError, ValueError):  # RLIMIT_NOFILE above fs.nr_open, lowered since
                resource.setrlimit(limit, (enough, hard))


class Hindrance(NamedTuple):
    """An inherited attribute that harms labs made by this process."""

    name: str
    detail: str
    remedy: str


class _Low(NamedTuple):
    """A hard limit that harms labs when it is below `enough`."""

    limit: int
    name: str
    enough: int
    unit: str
    """`bytes` are printed in MiB."""
    harm: str
    remedy: str


_CONFIGURE: Final = "as root: a higher {what} in /etc/security/limits.conf ({unit}= of a systemd unit), then log in again"
_LOW: Final = (
    _Low(
        resource.RLIMIT_NOFILE,
        "nofile",
        4096,
        "open files",
        "large labs and busy servers run out of them",
        _CONFIGURE.format(what="nofile", unit="LimitNOFILE"),
    ),
    _Low(
        resource.RLIMIT_MEMLOCK,
        "memlock",
        8 << 20,
        "bytes",
        "programs that lock memory are refused, eBPF maps before Linux 5.11 among them",
        _CONFIGURE.format(what="memlock", unit="LimitMEMLOCK"),
    ),
    _Low(
        resource.RLIMIT_AS,
        "address space",
        2 << 30,
        "bytes",
        "the lab's processes run out of memory",
        _CONFIGURE.format(what="as", unit="LimitAS"),
    ),
    _Low(
        resource.RLIMIT_DATA,
        "data",
        1 << 30,
        "bytes",
        "the lab's processes run out of memory",
        _CONFIGURE.format(what="data", unit="LimitDATA"),
    ),
    _Low(
        resource.RLIMIT_FSIZE,
        "file size",
        64 << 20,
        "bytes",
        "logs and the lab's store cannot grow beyond it",
        _CONFIGURE.format(what="fsize", unit="LimitFSIZE"),
    ),
    _Low(
        resource.RLIMIT_STACK,
        "stack",
        1 << 20,
        "bytes",
        "programs crash",
        _CONFIGURE.format(what="stack", unit="LimitSTACK"),
    ),
    _Low(
        resource.RLIMIT_CPU,
        "cpu time",
        sys.maxsize,
        "seconds",
        "the kernel kills each process of a lab that has used up as much processor time",
        _CONFIGURE.format(what="cpu", unit="LimitCPU"),
    ),
)
_LOW_NPROC: Final = _Low(
    resource.RLIMIT_NPROC,
    "nproc",
    1024,
    "processes of this user",
    "each pod takes one, and each real command",
    _CONFIGURE.format(what="nproc", unit="LimitNPROC"),
)
"""Only for ordinary users: root is exempt (kernel/fork.c copy_process())."""
_HIGH_NICE: Final = 5
_POLICIES: Final = {
    os.SCHED_IDLE: ("idle", "a lab runs only while nothing else does, so that its probes time out"),
    os.SCHED_BATCH: ("batch", "a lab's processes wake up late, so that everything takes longer"),
    os.SCHED_FIFO: (
        "fifo (real-time)",
        "a busy program of a pod takes a whole processor from the machine",
    ),
    os.SCHED_RR: (
        "rr (real-time)",
        "a busy program of a pod takes a whole processor from the machine",
    ),
}


def hindrances(*, is_root: bool) -> Iterator[Hindrance]:
    """Yield the kept attributes of this process that would harm the labs it makes."""
    for low in (*_LOW, *(() if is_root else (_LOW_NPROC,))):
        _, hard = resource.getrlimit(low.limit)
        if 0 <= hard < low.enough:
            amount = (
                f"{hard / (1 << 20):,.4g} MiB" if low.unit == "bytes" else f"{hard:,} {low.unit}"
            )
            yield Hindrance(low.name, f"the hard limit is {amount}: {low.harm}", low.remedy)
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if policy in _POLICIES:
        name, harm = _POLICIES[policy]
        yield Hindrance("scheduling", f"it is {name}: {harm}", "chrt --other 0 kubenetlab up")
    nice = os.nice(0)
    if nice >= _HIGH_NICE:
        what = f"the nice value is {nice}: other programs run first, so that probes time out on a busy machine"
        yield Hindrance(
            "nice",
            what,
            "start kubenetlab up without nice (to lower the value takes root: sudo nice -n 0 kubenetlab up)",
        )
    allowed, all_of_them = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    if allowed < all_of_them:
        what = (
            f"only {allowed} of {all_of_them} may be used (CPU affinity): labs take longer to make"
        )
        yield Hindrance("processors", what, f"taskset -c 0-{all_of_them - 1} kubenetlab up")


def _limits() -> list[int]:
    names = (
        name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    )
    return sorted({int(getattr(resource, name)) for name in names})


def _close_range(first: int, last: int) -> None:
    if first > last:
        return
    try:
        syscalls.close_range(first, last)
    except OSError:  # before Linux 5.9, or in an environment that does not know the call
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                with suppress(OSError):  # the descriptor of the listing itself
                    os.close(int(name))
