"""Entering a sandbox from outside, to run a program of this machine in it.

One setns() on the pidfd joins its network, UTS, IPC and PID namespaces; mounts.py makes a mount namespace for this run alone. In it the
machine's files are read-only, and the program has the privileges of a container and those of the network: variables such as BASH_ENV,
LD_PRELOAD or PROMPT_COMMAND come from a manifest, and may run code that its reader has not seen. `HostFiles` lifts both limits, for
programs that get no variable of a manifest.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kubenetlab.errors import LabError
from kubenetlab.kernel.namespaces import mounts
from kubenetlab.kernel.processes.inheritance import UMASK, close_other_descriptors, reset_signals
from kubenetlab.kernel.processes.privileges import confine_tool
from kubenetlab.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    die_with_parent,
    join_new_session_keyring,
    setns,
)

NOT_FOUND, NOT_EXECUTABLE = 127, 126
_OTHER_USER_NAMESPACE = "a lab that was made inside `unshare --map-root-user` is entered from that shell, or by its user outside of any"


def enter_lab(init: int) -> None:
    """Stand in the lab's own namespaces for good: join the network of its init, and its user namespace.

    init: a pidfd, which is closed. From a pod's network a process must be able to return to its own: that may be closed to an
    ordinary user, and to root of a user namespace only; the lab's is not. Raises LabError when the lab is gone.
    """
    try:
        setns(init, CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET)
    except PermissionError as error:
        raise LabError(
            f"cannot enter the lab's namespaces: {error.strerror}; {_OTHER_USER_NAMESPACE}"
        ) from None
    except ProcessLookupError:
        raise LabError("the lab has just ended; see what is up with: kubenetlab list") from None
    finally:
        os.close(init)


class OwnFiles(NamedTuple):
    """The machine's files are read-only, and the hidden directories are empty and the program's own."""

    hidden: Sequence[str]

    def prepare(self, hosts: str, resolv_conf: str) -> None:
        """Make this process's view of files and its privileges those of the program."""
        mounts.tool(hosts, resolv_conf, self.hidden)
        os.chdir("/")
        os.umask(UMASK)
        join_new_session_keyring()
        confine_tool()
        close_other_descriptors()


class HostFiles(NamedTuple):
    """The machine's files can be written to, with the caller's rights. `scratch` is a directory that is hidden from the program."""

    scratch: str

    def prepare(self, hosts: str, resolv_conf: str) -> None:
        """Make this process's view of files that of the program."""
        mounts.host_files(hosts, resolv_conf, self.scratch)


def run(
    pidfd: int,
    command: Sequence[str],
    *,
    hosts: str,
    resolv_conf: str,
    files: OwnFiles | HostFiles,
    environment: Mapping[str, str],
) -> int:
    """Run a program inside and return its exit status: 128 + the signal's number when one ended it.

    environment: all of the program's variables; it is looked for in the directories of PATH.
    """
    flags = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
    if os.geteuid():
        flags |= CLONE_NEWUSER  # the owner of the lab's user namespace has all capabilities in it
    on_machine = _find(command[0], os.environ.get("PATH", os.defpath))
    try:
        setns(pidfd, flags)
    except PermissionError as error:
        raise LabError(
            f"cannot enter the lab's namespaces: {error.strerror}; {_OTHER_USER_NAMESPACE}"
        ) from None
    os.close(pidfd)
    child = os.fork()  # only children are in the PID namespace joined
    if child == 0:
        try:
            die_with_parent(signal.SIGKILL)
            reset_signals(of_python=True)
            files.prepare(hosts, resolv_conf)
            program = _find(command[0], environment.get("PATH", os.defpath))
            os.execve(program or command[0], list(command), environment)
        except FileNotFoundError:
            _say(f"{command[0]}: {_why_missing(command[0], on_machine, files)}")
            os._exit(NOT_FOUND)
        except ValueError as error:  # a variable or an argument with a NUL byte
            _say(f"{command[0]}: {error}")
            os._exit(NOT_EXECUTABLE)
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


def _find(program: str, path: str) -> str:
    """Return the file that a shell would execute; nothing when there is none."""
    places = (
        [program]
        if "/" in program
        else [f"{directory or '.'}/{program}" for directory in path.split(":")]
    )
    return next(
        (place for place in places if os.path.isfile(place) and os.access(place, os.X_OK)), ""
    )


def _why_missing(program: str, on_machine: str, files: OwnFiles | HostFiles) -> str:
    if on_machine and isinstance(files, OwnFiles):
        return f"{os.path.abspath(on_machine)} is not among the files that programs inside see; with --host-files they see it"
    return "no such program on this machine"


def _say(text: str) -> None:
    print(f"kubenetlab: {text}", file=sys.stderr, flush=True)
