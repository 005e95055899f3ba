"""Leaving this process's namespaces for new ones, and what is mounted in them first.

Source: user_namespaces(7), pid_namespaces(7), mount_namespaces(7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kubenetlab.kernel import syscalls
from kubenetlab.kernel.namespaces.id_maps import Mapper

OF_LABS: Final = (
    syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
)
"""Those that a lab has for itself."""


def leave(flags: int = syscalls.CLONE_NEWNET, *, with_users: bool = False) -> str:
    """Leave this process's namespaces for new ones; CLONE_NEWPID counts for children only.

    Unless root calls it, a user namespace is made first, in which root is the only user. `with_users` maps the user's range of
    users and groups, too, if possible; the return value is the reason why not, else empty.
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


def keep_mounts_here() -> None:
    """Have mounts of this mount namespace appear in no other; what the machine unmounts goes here as well.

    Else a lab would keep a disk busy that the machine has unmounted. Source: mount_namespaces(7), MS_SLAVE.
    """
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)


def keep_mounts_apart() -> None:
    """Have mounts of this mount namespace appear in no other, nor those of others here."""
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)


def mount_proc() -> None:
    """The /proc of this PID namespace, in place of the outer one's."""
    syscalls.mount(
        "proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    )
