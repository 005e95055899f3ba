"""A container's real command: init forks it into the pod's namespaces, here it gets its files and becomes the program.

What it writes goes into the container's log; how it ends init hears and tells. A command of a probe joins the files of the
container's own process, and has its environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubenetlab.errors import refusal
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
from kubenetlab.lab.runtime.container_limits import enter_groups

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def main(boot: LabContext, arguments: dict[str, Any]) -> None:
    """The role; returns only by becoming the program, or by ending. Begins a process group, so that all of it can be ended."""
    os.setsid()
    reset_signals(of_python=True)
    rlimits = enter_groups(arguments["limits"]) if arguments.get("limits") else {}
    try:
        environment = (
            _join(ProcessId(*arguments["beside"]))
            if arguments.get("beside")
            else _prepare(arguments, boot.hidden)
        )
    except ProcessLookupError:
        print("the container is not running any more", flush=True)
        os._exit(NOT_FOUND)
    except OSError as error:
        print(f"the command's files cannot be prepared: {refusal(error)}", flush=True)
        os._exit(NOT_EXECUTABLE)
    try:
        confine(**arguments.get("capabilities") or {})
    except OSError as error:
        print(
            f"the command's permissions cannot be limited here ({error.strerror}), so it is not run: see kubenetlab doctor",
            flush=True,
        )
        os._exit(NOT_EXECUTABLE)
    close_other_descriptors()
    _become(
        arguments["argv"], environment, arguments.get("working_dir") or "/", rlimits, boot.hidden
    )


def _prepare(arguments: dict[str, Any], hidden: Sequence[str]) -> dict[str, str]:
    """Make the files of a container's own process, without the directories `hidden`; return its environment. Raises OSError."""
    mounts.container(arguments["hosts"], arguments["resolv_conf"], hidden)
    return {
        "PATH": CONTAINER_PATH,
        "HOME": "/root",
        "HOSTNAME": arguments["identity"]["hostname"],
        **arguments["environment"],
    }


def _join(beside: ProcessId) -> dict[str, str]:
    """Join the files of a container's own process; return its environment. Raises ProcessLookupError when it has ended."""
    try:
        environment = _environment_of(beside.pid)
        files = open_namespace(
            "mnt", beside.pid
        )  # by the lab's /proc: a pidfd would be looked for among the pod's processes
        if (
            start_time(beside.pid) != beside.start
        ):  # looked at last: all that was read before is then the same process's
            raise ProcessLookupError(f"process {beside.pid} is another one")
    except FileNotFoundError as error:
        raise ProcessLookupError(str(error)) from None
    setns(files, CLONE_NEWNS)
    return environment


def _become(
    argv: list[str],
    environment: dict[str, str],
    working_dir: str,
    rlimits: dict[str, int],
    hidden: Sequence[str],
) -> None:
    try:
        os.chdir(working_dir)
        apply_rlimits(**rlimits)
        os.execvpe(argv[0], argv, environment)
    except MemoryError:
        os._exit(NOT_EXECUTABLE)  # the limit leaves nothing to print with
    except ValueError as error:
        print(f'exec: "{argv[0]}": {error}', flush=True)
        os._exit(NOT_EXECUTABLE)
    except FileNotFoundError as error:
        is_place = error.filename == working_dir
        what = f'no such directory "{working_dir}"' if is_place else no_such_command(argv[0])
        print(what + _why_hidden(working_dir if is_place else argv[0], hidden), flush=True)
        os._exit(NOT_FOUND)
    except OSError as error:
        print(f'exec: "{argv[0]}": {(error.strerror or str(error)).lower()}', flush=True)
        os._exit(NOT_EXECUTABLE)


def _why_hidden(path: str, hidden: Sequence[str]) -> str:
    """Return the end of the message about a missing path that lies in a directory of the machine that programs do not see."""
    holder = next(
        (
            directory
            for directory in hidden
            if path.startswith(f"{directory}/") or path == directory
        ),
        None,
    )
    return (
        f": commands do not see {holder} of this machine; copy what they need to a place such as /opt"
        if holder
        else ""
    )


def _environment_of(pid: int) -> dict[str, str]:
    """What a process was born with."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
