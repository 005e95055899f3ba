"""System calls that Python 3.11 does not provide, by way of libc.

Source: unshare(2), setns(2), mount(2), mount_setattr(2), open_tree(2), fsopen(2), close_range(2),
prctl(2), capset(2), pidfd_open(2).
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

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT, _SYS_CLOSE_RANGE, _SYS_MOUNT_SETATTR = (
    430,
    431,
    432,
    436,
    442,
)
"""System call numbers that are the same on every architecture (arch/*/entry/syscalls)."""
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 1, 6
_CAPABILITY_VERSION_3, _CAPABILITY_SETS = 0x20080522, struct.Struct("=6I")
"""Effective, permitted and inheritable set: the lower 32 bits of each, then the upper ones."""
_MOUNT_ATTR_RDONLY, _AT_RECURSIVE, _AT_FDCWD = 0x1, 0x8000, -100
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 0x1, os.O_CLOEXEC, 0x4

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: object) -> int:
    result: int = getattr(_libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Move this process to new namespaces; CLONE_NEWPID applies to its children only."""
    _call("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Join a namespace, or the namespaces of a process that the flags name if `fd` is a pidfd."""
    _call("setns", fd, flags)


def fork() -> int:
    """Fork this process; an OSError names the system call that was refused."""
    try:
        return os.fork()
    except OSError as error:
        raise OSError(error.errno, f"fork: {error.strerror}") from None


def spawn(path: str, arguments: Sequence[str]) -> int:
    """Start a program with an empty environment and return its pid.

    The cost does not depend on the size of this process. Other threads run while the program
    starts; os.posix_spawn() would block them by keeping the GIL (Modules/posixmodule.c, 3.11).
    """
    pid = ctypes.c_int()
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*map(os.fsencode, arguments))
    number = _libc.posix_spawn(
        ctypes.byref(pid), os.fsencode(path), None, None, argv, (ctypes.c_char_p * 1)()
    )
    if number:
        raise OSError(number, os.strerror(number))
    return pid.value


@contextmanager
def inside_network(fd: int, home: int, *, is_kept: bool = False) -> Iterator[None]:
    """Run the block in a network namespace, then return to `home`.

    fd: descriptor of the namespace, or pidfd of a process in it. It is closed, because it would
        keep the namespace alive, unless `is_kept`.

    Raises ProcessLookupError if the process has exited.
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
    """Mount a file system or bind-mount a path.

    Source: mount(2).
    """
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        flags,
        options.encode() or None,
    )


def mount_detached(kind: str) -> int:
    """Create a mount that is attached nowhere; closing the returned descriptor unmounts it.

    Requires Linux 5.2.
    """
    context = _call("syscall", _SYS_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        _call("syscall", _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("syscall", _SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def clone_mount(path: str) -> int:
    """Return a descriptor of a bind mount of `path` that is attached nowhere, for `attach_mount`.

    Requires Linux 5.2. Source: open_tree(2).
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    return _call("syscall", _SYS_OPEN_TREE, _AT_FDCWD, path.encode(), flags)


def attach_mount(mount_fd: int, target: str) -> None:
    """Attach a detached mount at a path, and close its descriptor. Source: move_mount(2)."""
    try:
        _call(
            "syscall",
            _SYS_MOVE_MOUNT,
            mount_fd,
            b"",
            _AT_FDCWD,
            target.encode(),
            _MOVE_MOUNT_F_EMPTY_PATH,
        )
    finally:
        os.close(mount_fd)


def make_read_only(path: str, *, is_recursive: bool = True) -> None:
    """Make a mount read-only in this mount namespace, with all mounts below it if recursive.

    Requires Linux 5.12.
    """
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = _AT_RECURSIVE if is_recursive else 0
    _call(
        "syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes)
    )


def close_range(first: int, last: int) -> None:
    """Close the descriptors from `first` to `last`; gaps are no error. Requires Linux 5.9."""
    _call("syscall", _SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0)


def join_new_session_keyring() -> None:
    """Replace the inherited session keyring by an empty one, if the kernel has keyrings.

    Source: keyctl(2), keyrings(7).
    """
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        return
    try:
        _call("syscall", number, _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        # EPERM: Docker forbids the call, and with it all use of keyrings.
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise


def set_process_name(name: str, title: str) -> None:
    """Set the names that `ps` shows for this process.

    name: `comm`; the kernel keeps 15 bytes of it.
    title: `args`; cut off at the length of the original arguments.

    Source: fs/proc/base.c get_mm_cmdline(); proc_pid_stat(5), fields 48 and 49.
    """
    _call("prctl", PR_SET_NAME, name.encode()[:15] + b"\0", 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[48 - 3]), int(fields[49 - 3])
    if 0 < begin < end:
        room = end - begin
        ctypes.memmove(begin, title.encode()[: room - 1].ljust(room, b"\0"), room)


def inotify_open() -> int:
    """Return a non-blocking inotify descriptor. Raises OSError. Source: inotify(7)."""
    return _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a path for the events in `mask`; return the watch descriptor. Raises OSError."""
    return _call("inotify_add_watch", fd, path.encode(), mask)


def die_with_parent(signal_number: int) -> None:
    """Make the kernel send this process a signal when its parent exits."""
    _call("prctl", PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def drop_from_bounding_set(capability: int) -> None:
    """Remove a capability from the bounding set, so that no program executed later can gain it.

    Raises OSError with EINVAL if the kernel does not know the capability.
    """
    _call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)


def limit_capabilities(allowed: int) -> None:
    """Drop all capabilities except those of the bit set `allowed`.

    Inheritable and ambient capabilities are dropped, too. Inheritable capabilities are dropped
    because the bounding set does not limit them when root executes a program: capabilities(7).
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
    """Ignore set-user-ID bits and file capabilities of programs that this process executes."""
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def filter_system_calls(program: bytes) -> None:
    """Install a seccomp filter for this process and its children.

    program: classic BPF, as consecutive struct sock_filter.

    Requires no_new_privs or CAP_SYS_ADMIN. Raises OSError with EINVAL if the kernel has no seccomp
    filters. Source: seccomp(2).
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _call("prctl", PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)


def raise_thread_priority() -> None:
    """Give this thread real-time priority, which processes started by it do not inherit.

    Used for a thread that holds the RTNL lock most of the time: while it is pre-empted, every other
    writer waits. The priority stays as it is on a machine with one processor, after nice(1) or
    chrt(1), and where the kernel refuses, as for an ordinary user.

    Source: sched(7), sched_setscheduler(2).
    """
    if len(os.sched_getaffinity(0)) > 1 and has_default_scheduling():
        with suppress(OSError):
            os.sched_setscheduler(
                0,
                os.SCHED_RR | os.SCHED_RESET_ON_FORK,
                os.sched_param(os.sched_get_priority_min(os.SCHED_RR)),
            )


def has_default_scheduling() -> bool:
    """Return True if this thread has the default scheduling policy and nice value."""
    return os.sched_getscheduler(0) == os.SCHED_OTHER and os.nice(0) == 0


def enlarge_fd_table(count: int) -> None:
    """Enlarge this process's file descriptor table to `count`, or to its limit.

    Call it while the process has one thread. With several threads each enlargement waits about 5 ms
    for an RCU grace period (fs/file.c expand_fdtable(), 6.18).
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = min(count, soft) - 1
    with open(os.devnull, "rb") as source:
        os.close(fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, last))


def trim_memory() -> None:
    """Return unused memory to the kernel if the C library can; see malloc_trim(3)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def set_hostname(name: str) -> None:
    """Set the host name of this UTS namespace."""
    encoded = name.encode()
    _call("sethostname", encoded, len(encoded))


def open_namespace(kind: str, pid: int | str = "thread-self") -> int:
    """Return a descriptor of a process's namespace; by default of the calling thread's.

    kind: net, uts, ipc, pid or user, as in /proc/PID/ns.
    """
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
