"""Run a program of the machine inside a sandbox.

One setns() on the pidfd joins the sandbox's network, UTS, IPC and PID namespaces; mounts.py creates
a mount namespace for this run alone. By default the machine's files are read-only and the program
has the capabilities of a container plus those for the network, because environment variables such
as BASH_ENV, LD_PRELOAD or PROMPT_COMMAND come from a manifest and may run code that the user has
not reviewed. `HostFiles` lifts both limits, for programs that receive no variable of a manifest.
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
_OTHER_USER_NAMESPACE = (
    "a lab created inside `unshare --map-root-user` can only be entered from that shell, "
    "or by its user outside of any user namespace"
)


def enter_lab(init: int) -> None:
    """Join the network namespace of the lab's init for good; unless root, its user namespace too.

    init: pidfd of the lab's init; it is closed.

    A process that later enters a pod's network must be able to return to its own. Neither an
    ordinary user nor root of a user namespace may return to the machine's network, but both may
    return to the lab's. Raises LabError when the namespaces cannot be joined or the lab has ended.
    """
    try:
        setns(init, CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET)
    except PermissionError as error:
        raise LabError(
            f"cannot enter the lab's namespaces: {error.strerror}; {_OTHER_USER_NAMESPACE}"
        ) from None
    except ProcessLookupError:
        raise LabError("the lab has just ended; see kubenetlab list for running labs") from None
    finally:
        os.close(init)


class OwnFiles(NamedTuple):
    """Read-only view of the machine's files; `hidden` directories are replaced by empty ones.

    `tree` is the directory of the sandbox's own files, or empty.
    """

    hidden: Sequence[str]
    tree: str = ""

    def prepare(self, hosts: str, resolv_conf: str) -> None:
        """Set up mounts, working directory and privileges of this process for the program."""
        mounts.tool(hosts, resolv_conf, self.hidden, self.tree)
        os.chdir("/")
        os.umask(UMASK)
        join_new_session_keyring()
        confine_tool()
        close_other_descriptors()


class HostFiles(NamedTuple):
    """The machine's files, writable with the caller's rights.

    `scratch` is a directory that is hidden from the program.
    """

    scratch: str

    def prepare(self, hosts: str, resolv_conf: str) -> None:
        """Set up the mounts of this process for the program."""
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
    """Run a program inside a sandbox and return its exit status.

    The status is 128 + the signal number if a signal ended the program.

    pidfd: of the sandbox's pause process; it is closed.
    environment: all variables of the program; the program is looked up in its PATH.
    """
    flags = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
    if os.geteuid():
        flags |= CLONE_NEWUSER  # the user who created the lab has all capabilities in it
    path_on_machine = _find(command[0], os.environ.get("PATH", os.defpath))
    try:
        setns(pidfd, flags)
    except PermissionError as error:
        raise LabError(
            f"cannot enter the lab's namespaces: {error.strerror}; {_OTHER_USER_NAMESPACE}"
        ) from None
    os.close(pidfd)
    child = os.fork()  # setns() moves only children to the PID namespace
    if child == 0:
        try:
            die_with_parent(signal.SIGKILL)
            reset_signals(of_python=True)
            files.prepare(hosts, resolv_conf)
            program = _find(command[0], environment.get("PATH", os.defpath))
            os.execve(program or command[0], list(command), environment)
        except FileNotFoundError:
            _print_error(f"{command[0]}: {_why_missing(command[0], path_on_machine, files)}")
            os._exit(NOT_FOUND)
        except ValueError as error:  # a variable or an argument with a NUL byte
            _print_error(f"{command[0]}: {error}")
            os._exit(NOT_EXECUTABLE)
        except OSError as error:
            _print_error(f"{command[0]}: {error.strerror or error}")
            os._exit(NOT_EXECUTABLE)
        finally:
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program inside
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _find(program: str, path: str) -> str:
    """Return the path of the executable that a shell would run; empty if there is none."""
    candidates = (
        [program]
        if "/" in program
        else [f"{directory or '.'}/{program}" for directory in path.split(":")]
    )
    return next(
        (
            candidate
            for candidate in candidates
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK)
        ),
        "",
    )


def _why_missing(program: str, path_on_machine: str, files: OwnFiles | HostFiles) -> str:
    if path_on_machine and isinstance(files, OwnFiles):
        return (
            f"{os.path.abspath(path_on_machine)} is not among the files that programs inside see; "
            "use --host-files to run it"
        )
    return "no such program on this machine"


def _print_error(text: str) -> None:
    print(f"kubenetlab: {text}", file=sys.stderr, flush=True)
