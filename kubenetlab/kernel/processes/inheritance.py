"""Attributes that a process inherits from its caller, and how processes of a lab reset them.

A lab outlives the command that creates it, and containers run programs that the caller does not
control. Neither may keep a lock, a pipe or a directory of the caller open, or behave differently
because the caller ignores a signal.

Reset: descriptors other than the standard ones, ignored signals, the signal mask, the umask, the
working directory, soft limits, inheritable and ambient capabilities, the session keyring. Kept: the
nice value, the scheduling policy, the CPU affinity, hard limits and cgroups, because users set them
for the lab on purpose; `inherited_problems` finds values that harm a lab.

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
"""Umask of the processes of a lab."""
CONTAINER_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Default PATH of programs inside a lab; the caller's may name the caller's own directories."""
_FIRST_OTHER_FD: Final = 3
"""Lowest descriptor after the standard ones."""
_MAX_FD: Final = 2**32 - 1
_IGNORED_BY_PYTHON: Final = frozenset((signal.SIGPIPE, signal.SIGXFSZ))
"""Signals that Python ignores, to report them as errors of system calls (Python/pylifecycle.c)."""
_UNRAISED_LIMITS: Final = frozenset((resource.RLIMIT_CORE, resource.RLIMIT_STACK))
"""Soft limits that are not raised to the hard limit.

Crashing programs would write core files. An unlimited stack changes the layout of the address space
and the stacks of threads."""
_STACK_BYTES: Final = 8 << 20
"""Default soft limit of the stack in the kernel (include/uapi/linux/resource.h _STK_LIM)."""


def reset_inherited(keep: Iterable[int] = ()) -> None:
    """Reset all inherited attributes, except those that this module keeps.

    keep: descriptors that stay open besides the standard ones.
    """
    close_other_descriptors(keep)
    reset_signals()
    os.umask(UMASK)
    raise_soft_limits()
    syscalls.join_new_session_keyring()
    sys.path[:] = map(os.path.abspath, sys.path)  # later imports must find the same modules
    os.chdir("/")  # otherwise the caller's directory could not be unmounted


@contextmanager
def default_umask() -> Iterator[None]:
    """Use the default umask in the block, so that files get the requested permissions."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


def close_other_descriptors(keep: Iterable[int] = ()) -> None:
    """Close all descriptors except the standard ones and those in `keep`."""
    first = _FIRST_OTHER_FD
    for fd in sorted({fd for fd in keep if fd >= _FIRST_OTHER_FD}):
        _close_range(first, fd - 1)
        first = fd + 1
    _close_range(first, _MAX_FD)


def reset_signals(*, of_python: bool = False) -> None:
    """Reset ignored signals to their default action and unblock all signals.

    of_python: include the signals that Python ignores. For a process that is about to execute
        another program.
    """
    kept = frozenset() if of_python else _IGNORED_BY_PYTHON
    for number in signal.valid_signals() - kept:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def raise_soft_limits() -> None:
    """Raise soft limits to the hard limits; the stack's only to the kernel's default."""
    for limit in _all_limits():
        soft, hard = resource.getrlimit(limit)
        raised = hard if limit not in _UNRAISED_LIMITS else soft
        if limit == resource.RLIMIT_STACK and 0 <= soft < _STACK_BYTES:
            raised = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
        if raised != soft:
            with suppress(OSError, ValueError):  # fs.nr_open is below RLIMIT_NOFILE by now
                resource.setrlimit(limit, (raised, hard))


class InheritedProblem(NamedTuple):
    """An inherited attribute that harms labs created by this process."""

    name: str
    detail: str
    remedy: str


class _LowLimit(NamedTuple):
    """A hard limit that harms labs if it is below `enough`."""

    limit: int
    name: str
    enough: int
    unit: str
    """Unit for the message; `bytes` are shown in MiB."""
    harm: str
    remedy: str


_CONFIGURE: Final = (
    "as root: raise {what} in /etc/security/limits.conf ({unit}= of a systemd unit), "
    "then log in again"
)
_LOW_LIMITS: Final = (
    _LowLimit(
        resource.RLIMIT_NOFILE,
        "nofile",
        4096,
        "open files",
        "large labs and busy servers need more",
        _CONFIGURE.format(what="nofile", unit="LimitNOFILE"),
    ),
    _LowLimit(
        resource.RLIMIT_MEMLOCK,
        "memlock",
        8 << 20,
        "bytes",
        "programs cannot lock memory, which eBPF maps need before Linux 5.11",
        _CONFIGURE.format(what="memlock", unit="LimitMEMLOCK"),
    ),
    _LowLimit(
        resource.RLIMIT_AS,
        "address space",
        2 << 30,
        "bytes",
        "the lab's processes run out of memory",
        _CONFIGURE.format(what="as", unit="LimitAS"),
    ),
    _LowLimit(
        resource.RLIMIT_DATA,
        "data",
        1 << 30,
        "bytes",
        "the lab's processes run out of memory",
        _CONFIGURE.format(what="data", unit="LimitDATA"),
    ),
    _LowLimit(
        resource.RLIMIT_FSIZE,
        "file size",
        64 << 20,
        "bytes",
        "logs and the lab's store cannot grow beyond it",
        _CONFIGURE.format(what="fsize", unit="LimitFSIZE"),
    ),
    _LowLimit(
        resource.RLIMIT_STACK,
        "stack",
        1 << 20,
        "bytes",
        "programs crash",
        _CONFIGURE.format(what="stack", unit="LimitSTACK"),
    ),
    _LowLimit(
        resource.RLIMIT_CPU,
        "cpu time",
        sys.maxsize,
        "seconds",
        "the kernel kills each process of a lab that has used this much processor time",
        _CONFIGURE.format(what="cpu", unit="LimitCPU"),
    ),
)
_LOW_NPROC_LIMIT: Final = _LowLimit(
    resource.RLIMIT_NPROC,
    "nproc",
    1024,
    "processes of this user",
    "each pod and each real command takes one",
    _CONFIGURE.format(what="nproc", unit="LimitNPROC"),
)
"""Applies to ordinary users only: root is exempt (kernel/fork.c copy_process())."""
_HIGH_NICE: Final = 5
_POLICIES: Final = {
    os.SCHED_IDLE: ("idle", "a lab runs only while nothing else does, so its probes time out"),
    os.SCHED_BATCH: ("batch", "a lab's processes wake up late, so everything takes longer"),
    os.SCHED_FIFO: (
        "fifo (real-time)",
        "a busy program of a pod takes a whole processor from the machine",
    ),
    os.SCHED_RR: (
        "rr (real-time)",
        "a busy program of a pod takes a whole processor from the machine",
    ),
}


def inherited_problems(*, is_root: bool) -> Iterator[InheritedProblem]:
    """Yield the kept attributes of this process that would harm its labs."""
    for low in (*_LOW_LIMITS, *(() if is_root else (_LOW_NPROC_LIMIT,))):
        _, hard = resource.getrlimit(low.limit)
        if 0 <= hard < low.enough:
            amount = (
                f"{hard / (1 << 20):,.4g} MiB" if low.unit == "bytes" else f"{hard:,} {low.unit}"
            )
            yield InheritedProblem(low.name, f"the hard limit is {amount}: {low.harm}", low.remedy)
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if policy in _POLICIES:
        name, harm = _POLICIES[policy]
        yield InheritedProblem(
            "scheduling", f"it is {name}: {harm}", "chrt --other 0 kubenetlab up"
        )
    nice = os.nice(0)
    if nice >= _HIGH_NICE:
        detail = (
            f"the nice value is {nice}: other programs run first, "
            "so probes time out on a busy machine"
        )
        yield InheritedProblem(
            "nice",
            detail,
            "start kubenetlab up without nice "
            "(only root can lower the value: sudo nice -n 0 kubenetlab up)",
        )
    allowed, online = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    if allowed < online:
        detail = (
            f"only {allowed} of {online} may be used (CPU affinity): creating labs takes longer"
        )
        yield InheritedProblem("processors", detail, f"taskset -c 0-{online - 1} kubenetlab up")


def _all_limits() -> list[int]:
    names = (
        name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    )
    return sorted({int(getattr(resource, name)) for name in names})


def _close_range(first: int, last: int) -> None:
    if first > last:
        return
    try:
        syscalls.close_range(first, last)
    except OSError:  # before Linux 5.9, or in a sandbox that does not support the call
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                with suppress(OSError):  # the descriptor of the listing itself
                    os.close(int(name))
