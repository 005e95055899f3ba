"""Privileges of programs inside a lab.

A container's command has the default capabilities of container runtimes except MKNOD. A program of
`exec` or `shell` has those for the network in addition, and cannot type into the terminal from
which it was started.

Source: capabilities(7); github.com/containerd/containerd oci/spec.go (defaultUnixCaps);
include/uapi/linux/capability.h; ioctl_tty(2); seccomp(2); include/uapi/linux/audit.h;
arch/*/entry/syscalls.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from kubenetlab.kernel.syscalls import (
    drop_from_bounding_set,
    filter_system_calls,
    limit_capabilities,
    set_no_new_privileges,
)

ALL: Final = "ALL"

DEFAULT: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
"""Capability → its number."""
NETWORK: Final = {"NET_BROADCAST": 11, "NET_ADMIN": 12}
"""Capabilities that a container may add: they reach no further than its pod's network."""
_ENTER_NAMESPACES: Final = {"SYS_PTRACE": 19, "SYS_ADMIN": 21}
"""Capabilities to open the namespaces of another process, and to enter them."""
_WAKE_ALARM: Final = 35
"""A capability that no container has, given to tools to protect them from containers.

A process may trace others only if it has all of their capabilities (security/commoncap.c
cap_ptrace_access_check()). Otherwise a container's command with the capabilities for the network
could use the tool's terminal and open files."""


def confine(add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
    """Reduce this process to the default capabilities, plus `add`, without `drop`.

    add: only capabilities in DEFAULT and NETWORK are added. The name ALL is allowed in both.
    """
    added, dropped = _without_prefix(add), _without_prefix(drop)
    kept = (
        {}
        if ALL in dropped
        else {name: number for name, number in DEFAULT.items() if name not in dropped}
    )
    kept |= {
        name: number
        for name, number in (DEFAULT | NETWORK).items()
        if name in added or ALL in added
    }
    _keep_only(set(kept.values()))


def confine_tool() -> None:
    """Confine this process before it executes a program of `exec` or `shell`.

    The program has the default capabilities and those for the network, and cannot type into its
    terminal.
    """
    _keep_only({*DEFAULT.values(), *NETWORK.values(), _WAKE_ALARM})
    try:
        filter_system_calls(_TERMINAL_FILTER)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # This kernel has no seccomp filters. Without a controlling terminal the requests are
        # refused as well, but Ctrl-Z does not work.
        os.setsid()


def confine_network_plugins() -> None:
    """Confine this process before it executes CNI plugins, which enter the pods' namespaces."""
    _keep_only({*DEFAULT.values(), *NETWORK.values(), *_ENTER_NAMESPACES.values()})


def _keep_only(numbers: AbstractSet[int]) -> None:
    """Drop all other capabilities for good.

    Three steps, because root gets the whole bounding set when it executes a program. Without
    CAP_SETPCAP the bounding set cannot be changed; then no_new_privs keeps execve() from adding to
    the permitted set (security/commoncap.c cap_bprm_creds_from_file()).
    """
    capability = 0
    while True:
        try:
            if capability not in numbers:
                drop_from_bounding_set(capability)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            break  # EINVAL: the kernel has no further capabilities
        capability += 1
    set_no_new_privileges()
    limit_capabilities(sum(1 << number for number in numbers))


def _without_prefix(names: Iterable[str]) -> set[str]:
    """Return the names without the optional prefix CAP_."""
    return {name.upper().removeprefix("CAP_") for name in names}


_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
"""ioctl requests that insert characters into a terminal's input.

The caller's shell would read them after the program has ended."""
_IOCTL: Final = (
    (0xC000003E, 16),  # x86_64
    (0xC000003E, 0x40000000 | 514),  # x32
    (0x40000003, 54),  # i386
    (0xC00000B7, 29),  # aarch64
    (0x40000028, 54),  # arm
)
"""(architecture of include/uapi/linux/audit.h, system call number of ioctl() there)."""
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24
"""Offsets in struct seccomp_data.

Of the argument this is the lower half, the only one that ioctl() evaluates."""
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def _terminal_filter() -> bytes:
    """Return the BPF program that refuses both requests on all architectures of this machine."""
    instructions: list[tuple[int, int, int, int]] = []
    for architecture, number in _IOCTL:
        instructions += [
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_JUMP_IF_EQUAL, 0, 6, architecture),
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_IF_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _SECOND_ARGUMENT),
            (_JUMP_IF_EQUAL, 1, 0, _TIOCSTI),
            (_JUMP_IF_EQUAL, 0, 1, _TIOCLINUX),
            (_RETURN, 0, 0, _REFUSE),
        ]
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (*instructions, (_RETURN, 0, 0, _ALLOW))
    )


_TERMINAL_FILTER: Final = _terminal_filter()
