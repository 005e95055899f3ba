"""System calls that Python 3.11 has no function for, by libc.

Source: unshare(2), setns(2), mount(2), mount_setattr(2), fsopen(2), close_range(2), prctl(2), capset(2), pidfd_open(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x2000, 0x4000, 0x40000, 0x80000

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = (
    1,
    15,
    22,
    24,
    38,
)
_SECCOMP_MODE_FILTER = 2

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT, _SYS_CLOSE_RANGE, _SYS_MOUNT_SETATTR = (
    430,
    431,
    432,
    436,
    442,
)
"""The same on every processor (arch/*/entry/syscalls)."""
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 1, 6
_CAPABILITY_VERSION_3, _CAPABILITY_SETS = 0x20080522, struct.Struct("=6I")
"""Effective, permitted and inheritable set: first the lower 32 bits of each, then the upper ones."""
_MOUNT_ATTR_RDONLY, _AT_RECURSIVE, _AT_FDCWD = 0x1, 0x8000, -100

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: Any) -> int:
    result: int = getattr(_libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leaves the namespaces named by the flags for new ones; CLONE_NEWPID counts for children only."""
    _call("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Joins a namespace, or with a pidfd all of a process's namespaces that the flags name."""
    _call("setns", fd, flags)


def fork() -> int:
    """os.fork(), whose error says what was refused."""
    try:
        return os.fork()
    except OSError as error:
        raise OSError(error.errno, f"fork: {error.strerror}") from None


def spawn(path: str, arguments: Sequence[str]) -> int:
    """Starts a program with an empty environment and returns its pid; costs the same whatever this process has in memory.

    Other threads go on until it runs, which they do not while os.posix_spawn() waits for that (Modules/posixmodule.c, 3.11).
    """
    pid = ctypes.c_int()
    words = (ctypes.c_char_p * (len(arguments) + 1))(*map(os.fsencode, arguments))
    number = _libc.posix_spawn(
        ctypes.byref(pid), os.fsencode(path), None, None, words, (ctypes.c_char_p * 1)()
    )
    if number:
        raise OSError(number, os.strerror(number))
    return pid.value


@contextmanager
def inside_network(fd: int, home: int, *, is_kept: bool = False) -> Iterator[None]:
    """Stand in a network namespace for the length of the block, then in `home` again.

    `fd` is a descriptor of the namespace, or a pidfd of a process in it. It is closed, because an open namespace is pinned by its
    descriptor, except with `is_kept`. Raises ProcessLookupError when the process has died.
    """
    try:
        setns(fd, CLONE_NEWNET)
    finally:
        if not is_kept:
            os.close(fd)
    try:
        yield
    finally:
        setns(home, CLONE_NEWNET)


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, options: str = ""
) -> None:
    """Mounts a file system or binds a path; see mount(2)."""
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        flags,
        options.encode() or None,
    )


def mount_apart(kind: str) -> int:
    """A file system mounted nowhere, which is gone with the descriptor returned; Linux 5.2 and later."""
    opened = _call("syscall", _SYS_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        _call("syscall", _SYS_FSCONFIG, opened, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("syscall", _SYS_FSMOUNT, opened, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(opened)


def make_read_only(path: str, *, is_recursive: bool = True) -> None:
    """Make a mount, and all mounts below it or none, read-only in this mount namespace; Linux 5.12 and later."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = _AT_RECURSIVE if is_recursive else 0
    _call(
        "syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes)
    )


def close_range(first: int, last: int) -> None:
    """Close the descriptors from `first` to `last`; Linux 5.9 and later. Missing ones are no error."""
    _call("syscall", _SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0)


def join_new_session_keyring() -> None:
    """Give this process an empty session keyring in place of the caller's, where the kernel has keyrings; keyctl(2), keyrings(7)."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        return
    try:
        _call("syscall", number, _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno not in (
            errno.ENOSYS,
            errno.EOPNOTSUPP,
            errno.EPERM,
        ):  # EPERM: Docker forbids the call, and with it all keyrings
            raise


def set_process_name(name: str, title: str) -> None:
    """What `ps` shows: `comm`, of which the kernel keeps 15 bytes, and `args`, as much as fits where the arguments stood.

    Source: fs/proc/base.c get_mm_cmdline(); proc_pid_stat(5), fields 48 and 49.
    """
    _call("prctl", PR_SET_NAME, name.encode()[:15] + b"\0", 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[48 - 3]), int(fields[49 - 3])
    if 0 < begin < end:
        room = end - begin
        ctypes.memmove(begin, title.encode()[: room - 1].ljust(room, b"\0"), room)


def die_with_parent(signal_number: int) -> None:
    """Has the kernel send this process a signal when its parent dies."""
    _call("prctl", PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def drop_from_bounding_set(capability: int) -> None:
    """No program that this process becomes has the capability, by whatever way; EINVAL when there is none of that number."""
    _call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)


def limit_capabilities(allowed: int) -> None:
    """Take away the capabilities that are not in `allowed`, a bit for each, and all inheritable and ambient ones.

    When root executes a program, the bounding set does not limit inheritable capabilities: capabilities(7).
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(_CAPABILITY_SETS.size)
    _call("capget", header, sets)
    effective, permitted, _, effective_high, permitted_high, _ = _CAPABILITY_SETS.unpack(sets.raw)
    low, high = allowed & 0xFFFFFFFF, allowed >> 32
    _call(
        "capset",
        header,
        _CAPABILITY_SETS.pack(
            effective & low, permitted & low, 0, effective_high & high, permitted_high & high, 0
        ),
    )


def set_no_new_privileges() -> None:
    """Neither set-user-id nor file capabilities count for what this process becomes."""
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def filter_system_calls(program: bytes) -> None:
    """Have each system call of this process and its children judged by a BPF program of struct sock_filter; seccomp(2).

    Takes no_new_privs. EINVAL where the kernel has no such filters.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _call("prctl", PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)


def raise_thread_priority() -> None:
    """Has this thread, but not what it starts, go before everybody else on its processor: sched(7), sched_setscheduler(2).

    For one that holds the kernel's locks (RTNL) most of its time, so that whoever interrupts it lets everybody wait. Nothing changes where there is
    one processor only, which is everybody's, where somebody has said how urgent all this is (nice(1), chrt(1)), and where it is not allowed: to an
    ordinary user, say.
    """
    if len(os.sched_getaffinity(0)) > 1 and is_as_urgent_as_any():
        with suppress(OSError):
            os.sched_setscheduler(
                0,
                os.SCHED_RR | os.SCHED_RESET_ON_FORK,
                os.sched_param(os.sched_get_priority_min(os.SCHED_RR)),
            )


def is_as_urgent_as_any() -> bool:
    """True when nobody has said anything else of this thread."""
    return os.sched_getscheduler(0) == os.SCHED_OTHER and os.nice(0) == 0


def have_room_for_descriptors(count: int) -> None:
    """Makes the table of this process's descriptors as large as that, or as its limit, while it has one thread.

    With several threads each growth waits, for 5 ms or so, until no processor can still read the smaller one (fs/file.c expand_fdtable(), 6.18).
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = min(count, soft) - 1
    with open(os.devnull, "rb") as source:
        os.close(fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, last))


def give_memory_back() -> None:
    """Hands what this process does not use any more to the kernel, where the C library can; see malloc_trim(3)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def set_hostname(name: str) -> None:
    """Names this UTS namespace."""
    encoded = name.encode()
    _call("sethostname", encoded, len(encoded))


def open_namespace(kind: str, pid: int | str = "thread-self") -> int:
    """A descriptor of a process's namespace (`net`, `uts`, `ipc`, `pid`, `user`); of the calling thread's when none is named."""
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
