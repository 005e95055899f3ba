"""Namespaces of the lab itself, and the reasons why a machine may refuse them."""

from __future__ import annotations

import errno
import os
import signal

from kubenetlab.errors import RequirementError
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.namespaces import unshare
from kubenetlab.kernel.processes.inheritance import reset_inherited
from kubenetlab.kernel.processes.permissions import FILTERED_CALLS, HIDDEN_PROC, remedy
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext


def enter_namespaces(context: LabContext) -> None:
    """Move this process to a session and to namespaces of the lab's own.

    Everything inherited from the caller is closed, except for the descriptors in `context`. The
    descriptors of outer directories that the lab needs are opened first. Raises RequirementError.
    """
    reset_inherited(_descriptors(context))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    context.outer_proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if rundir.owns_run():
        context.run_netns_fd = _open_run_netns()
    try:
        unshare.enter_new_namespaces(unshare.LAB_NAMESPACES, with_users=True)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC):
            raise
        failure = f"cannot make the lab's namespaces: {error.strerror}"
        raise RequirementError(
            f"{failure}\n  → {remedy(error.errno)}\n  see kubenetlab doctor"
        ) from None


def set_up_namespaces() -> None:
    """Set the lab's host name and mount its own /proc.

    The sysctls in that /proc can be written even if the outer one is read-only. Raises
    RequirementError if the machine's container forbids it; see docs/decisions/own-proc.md.
    """
    action, advice = "name the lab's host", FILTERED_CALLS
    try:
        syscalls.set_hostname(os.uname().nodename)
        action, advice = "mount the lab's own /proc", HIDDEN_PROC
        unshare.stop_mount_propagation()
        unshare.mount_proc()
    except OSError as error:
        raise RequirementError(
            f"cannot {action}: {error.strerror}\n  → {advice}\n  see kubenetlab doctor"
        ) from None


def _descriptors(context: LabContext) -> list[int]:
    """Return the descriptors that `up` has opened for the lab."""
    sockets = (
        context.progress,
        context.netns_pool.socket if context.netns_pool is not None else None,
    )
    return [socket.fileno() for socket in sockets if socket is not None]


def _open_run_netns() -> int:
    """Return a descriptor of the machine's /run/netns, or -1 if it cannot be opened.

    A lab works without it.
    """
    try:
        return os.open(rundir.RUN_NETNS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
