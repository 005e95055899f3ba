"""Process of a container with a real command.

Init forks it into the pod's namespaces. This module sets up its file system, limits and
environment, and executes the command. Its output goes to the container's log, and init reports its
exit. The command of a probe or hook joins the mount namespace of the container's own process, and
has the same environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kubenetlab.errors import os_error_text
from kubenetlab.kernel.features.detection import no_such_command
from kubenetlab.kernel.namespaces import mounts
from kubenetlab.kernel.processes.identity import ProcessId, start_time
from kubenetlab.kernel.processes.inheritance import (
    CONTAINER_PATH,
    close_other_descriptors,
    reset_signals,
)
from kubenetlab.kernel.processes.privileges import confine
from kubenetlab.kernel.processes.rlimits import apply_rlimits
from kubenetlab.kernel.syscalls import CLONE_NEWNS, open_namespace, setns
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.messages.init import Command
from kubenetlab.lab.runtime.container_limits import AppliedLimits, enter_groups
from kubenetlab.programs.command import CommandOptions

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of a command that cannot be executed, as a shell reports them."""


def main(context: LabContext, command: Command, limits: AppliedLimits) -> None:
    """Execute the command of a container; never return."""
    _run(context, command.options, limits, lambda: _prepare(context, command))


def main_beside(
    context: LabContext, options: CommandOptions, limits: AppliedLimits | None, beside: ProcessId
) -> None:
    """Execute the command of a probe or hook; never return.

    options: those of the container, with the arguments of the probe's command.
    beside:  the container's own process.
    """
    _run(context, options, limits, lambda: _join(beside))


def _run(
    context: LabContext,
    options: CommandOptions,
    limits: AppliedLimits | None,
    enter: Callable[[], dict[str, str]],
) -> None:
    """Execute a command; never return.

    The process becomes the leader of a session, so that all its children can be killed with it.

    enter: gives the process its file system and returns its environment. Raises
    ProcessLookupError if the container has exited, and OSError.
    """
    os.setsid()
    reset_signals(of_python=True)
    rlimits = enter_groups(limits) if limits is not None else {}
    try:
        environment = enter()
    except ProcessLookupError:
        print("the container has exited", flush=True)
        os._exit(NOT_FOUND)
    except OSError as error:
        print(f"the command's files cannot be prepared: {os_error_text(error)}", flush=True)
        os._exit(NOT_EXECUTABLE)
    try:
        confine(options.capabilities.add, options.capabilities.drop)
    except OSError as error:
        print(
            f"the command's permissions cannot be limited ({error.strerror}), "
            "so it is not run; see kubenetlab doctor",
            flush=True,
        )
        os._exit(NOT_EXECUTABLE)
    close_other_descriptors()
    _execute(
        options.argv,
        environment,
        options.working_dir or "/",
        rlimits,
        context.hidden_directories,
    )


def _prepare(context: LabContext, command: Command) -> dict[str, str]:
    """Mount the file system of a container's own process and return its environment.

    Raises OSError.
    """
    mounts.container(command.hosts, command.resolv_conf, context.hidden_directories)
    return {
        "PATH": CONTAINER_PATH,
        "HOME": "/root",
        "HOSTNAME": command.hostname,
        **command.environment,
    }


def _join(beside: ProcessId) -> dict[str, str]:
    """Join the mount namespace of a container's own process and return its environment.

    Raises ProcessLookupError if that process has exited.
    """
    try:
        environment = _environment_of(beside.pid)
        # By /proc, which is the lab's: pidfd_open(2) takes a pid of the pod's PID namespace.
        mount_namespace = open_namespace("mnt", beside.pid)
        # Checked last: a matching start time proves that the pid was not reused before.
        if start_time(beside.pid) != beside.start:
            raise ProcessLookupError(f"process {beside.pid} is another one")
    except FileNotFoundError as error:
        raise ProcessLookupError(str(error)) from None
    setns(mount_namespace, CLONE_NEWNS)
    return environment


def _execute(
    argv: tuple[str, ...],
    environment: dict[str, str],
    working_dir: str,
    rlimits: dict[str, int],
    hidden: Sequence[str],
) -> None:
    """Replace this process by the command; print the reason and exit if that fails."""
    try:
        os.chdir(working_dir)
        apply_rlimits(**rlimits)
        os.execvpe(argv[0], argv, environment)
    except MemoryError:
        os._exit(NOT_EXECUTABLE)  # the memory limit leaves too little to print a message
    except ValueError as error:
        print(f'exec: "{argv[0]}": {error}', flush=True)
        os._exit(NOT_EXECUTABLE)
    except FileNotFoundError as error:
        is_directory = error.filename == working_dir
        path = working_dir if is_directory else argv[0]
        message = f'no such directory "{path}"' if is_directory else no_such_command(path)
        print(message + _hint_if_hidden(path, hidden), flush=True)
        os._exit(NOT_FOUND)
    except OSError as error:
        print(f'exec: "{argv[0]}": {(error.strerror or str(error)).lower()}', flush=True)
        os._exit(NOT_EXECUTABLE)


def _hint_if_hidden(path: str, hidden: Sequence[str]) -> str:
    """Return a hint for a missing path in a directory that containers do not see, or ""."""
    parent = next(
        (
            directory
            for directory in hidden
            if path.startswith(f"{directory}/") or path == directory
        ),
        None,
    )
    return (
        f": commands do not see {parent} of this machine; "
        "copy what they need to a directory such as /opt"
        if parent
        else ""
    )


def _environment_of(pid: int) -> dict[str, str]:
    """Return the initial environment of a process."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
