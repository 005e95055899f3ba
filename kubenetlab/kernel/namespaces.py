"""Leaving this process's namespaces for new ones, and what is mounted in them first.

Source: user_namespaces(7), pid_namespaces(7), mount_namespaces(7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kubenetlab.kernel import syscalls

OF_LABS: Final = syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
"""Those that a lab has for itself."""


def leave(flags: int = syscalls.CLONE_NEWNET) -> None:
    """Into new ones, with a user namespace for who is not root; CLONE_NEWPID counts for children only."""
    user, group = os.geteuid(), os.getegid()
    if user:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    syscalls.unshare(flags)


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
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
