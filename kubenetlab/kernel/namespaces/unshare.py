"""Creation of namespaces for this process, and their first mounts.

Source: user_namespaces(7), pid_namespaces(7), mount_namespaces(7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kubenetlab.kernel import syscalls
from kubenetlab.kernel.namespaces.id_maps import Mapper

LAB_NAMESPACES: Final = (
    syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
)
"""Namespaces that each lab has for itself."""


def enter_new_namespaces(flags: int = syscalls.CLONE_NEWNET, *, with_users: bool = False) -> str:
    """Move this process to new namespaces; CLONE_NEWPID applies to its children only.

    Unless root calls it, a user namespace is created first, in which the caller is root.

    with_users: also map the user's ranges of /etc/subuid and /etc/subgid if possible.

    Return the reason why no ranges were mapped; empty if they were, or were not asked for.
    """
    user, group = os.geteuid(), os.getegid()
    fault = ""
    if user and with_users:
        mapper = Mapper()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        mapper.finish(user, group)
        fault = mapper.fault
    elif user:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    syscalls.unshare(flags)
    return fault


def stop_mount_propagation() -> None:
    """Stop mounts of this namespace from propagating to others.

    Unmounts of the machine still propagate to this namespace; otherwise a lab would keep a disk
    busy that the machine has unmounted. Source: mount_namespaces(7), MS_SLAVE.
    """
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)


def keep_mounts_apart() -> None:
    """Stop the propagation of mounts to and from this namespace."""
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)


def mount_proc() -> None:
    """Mount a /proc of this PID namespace over the outer one."""
    syscalls.mount(
        "proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    )
