"""Leaving the machine: the namespaces that a lab lives in, and what forbids them where they cannot be had."""

from __future__ import annotations

import errno
import os
import signal

from kubenetlab.errors import RequirementError
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.namespaces import unshare
from kubenetlab.kernel.processes.inheritance import start_afresh
from kubenetlab.kernel.processes.permissions import FILTERED_CALLS, HIDDEN_PROC, remedy
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext


def leave(boot: LabContext) -> None:
    """Leave the caller's session and namespaces, and all that was inherited from the caller but what `boot` holds.

    Descriptors of the outside that the lab needs are opened first. Raises RequirementError.
    """
    start_afresh(_descriptors(boot))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    boot.outer_proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if rundir.owns_run():
        boot.run_netns = _open_run_netns()
    try:
        unshare.leave(unshare.OF_LABS, with_users=True)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC):
            raise
        what = f"cannot make the lab's namespaces: {error.strerror}"
        raise RequirementError(
            f"{what}\n  → {remedy(error.errno)}\n  see kubenetlab doctor"
        ) from None


def settle() -> None:
    """Mount a /proc of the lab's own, whose settings can be written even where the outer one is read-only.

    Raises RequirementError where a container forbids that, or host names: docs/decisions/own-proc.md.
    """
    what, advice = "name the lab's host", FILTERED_CALLS
    try:
        syscalls.set_hostname(os.uname().nodename)
        what, advice = "mount the lab's own /proc", HIDDEN_PROC
        unshare.keep_mounts_here()
        unshare.mount_proc()
    except OSError as error:
        raise RequirementError(
            f"cannot {what}: {error.strerror}\n  → {advice}\n  see kubenetlab doctor"
        ) from None


def _descriptors(boot: LabContext) -> list[int]:
    """The descriptors that `up` has opened for the lab."""
    held = (boot.progress, boot.blanks.socket if boot.blanks is not None else None)
    return [one.fileno() for one in held if one is not None]


def _open_run_netns() -> int:
    """A descriptor of the machine's list of namespaces, or -1 where there is none: the lab does without it."""
    try:
        return os.open(rundir.RUN_NETNS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
