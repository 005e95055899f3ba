"""Entering a sandbox from outside, to run a program of this machine in it.

One setns on the pidfd joins its network, UTS, IPC and PID namespaces; mounts.py makes a mount namespace for this run alone, with the
pod's /proc, /sys, /etc/hosts and /etc/resolv.conf, and without the machine's own ways to look up names.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence

from kubenetlab.errors import LabError
from kubenetlab.kernel import mounts
from kubenetlab.kernel.syscalls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, die_with_parent, setns

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def enter_lab(init_pid: int) -> None:
    """Lets this process stand in its lab's namespaces, one after another: joins init's network for good, and its user namespace.

    From a pod's network one must be able to go back to one's own: that may be closed to an ordinary user, and to who is root in a
    user namespace only; the lab's is not. Raises LabError when the lab is gone.
    """
    try:
        init = os.pidfd_open(init_pid)
        try:
            setns(init, CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET)
        finally:
            os.close(init)
    except ProcessLookupError:
        raise LabError("the lab has just ended; see what is up with: kubenetlab list") from None


def run(pidfd: int, command: Sequence[str], *, hosts: str, resolv_conf: str, scratch: str, environment: Mapping[str, str]) -> int:
    """Runs a program inside and returns its exit status (128 + the signal's number when one ended it).

    `scratch` is a directory that is hidden, in that mount namespace only, behind the files that are put over those in /etc.
    """
    flags = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
    if os.geteuid():
        flags |= CLONE_NEWUSER  # the owner of the lab's user namespace has all capabilities in it
    setns(pidfd, flags)
    os.close(pidfd)
    child = os.fork()  # only children are in the PID namespace joined
    if child == 0:
        try:
            die_with_parent(signal.SIGKILL)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and what is ignored stays so
                signal.signal(number, signal.SIG_DFL)
            mounts.pods_files(hosts, resolv_conf, scratch)
            os.execvpe(command[0], list(command), {**os.environ, **environment})
        except FileNotFoundError:
            _say(f"{command[0]}: no such program on this machine")
            os._exit(NOT_FOUND)
        except OSError as error:
            _say(f"{command[0]}: {error.strerror or error}")
            os._exit(NOT_EXECUTABLE)
        finally:
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program inside
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _say(text: str) -> None:
    print(f"kubenetlab: {text}", file=sys.stderr, flush=True)
