"""The run directory of a lab: its sockets, its store, its log. Nothing in it is the truth about what runs; the kernel is.

/run/kubenetlab/<lab>/        below $XDG_RUNTIME_DIR for a user who is not root; mode 0700
    api.sock                  refuses connections exactly when the lab is dead
    inner-api.sock            the same API for the lab's own processes, who need it while the lab is being made
    init.sock node-agent-N.sock worker-N.sock   between the lab's own processes
    store.json                the objects, written before the kernel is touched
    pause  log  uplink.json
    cgroups.json              the cgroups that the lab has made for its containers
    pod_….log                 what a container's own process prints
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from kubenetlab.errors import RequirementError, UsageError
from kubenetlab.kernel.processes.permissions import is_first_user_namespace, outer_uid
from kubenetlab.names import file_name, lab_name_fault

RUN_NETNS = "/run/netns"
API_SOCKET, INNER_API_SOCKET, INIT_SOCKET = "api.sock", "inner-api.sock", "init.sock"
STORE, LOG, PAUSE, UPLINK = "store.json", "log", "pause", "uplink.json"
CGROUPS = "cgroups.json"
FORWARDING = "forwarding.json"
"""Beside the labs: which of the machine's links forward for the sake of labs with uplinks."""
TRIED = "doctor.json"
"""Beside the labs: what the machine has been found to be able to do."""
LOG_ENDING_BYTES = 9
"""Of `.previous` and `.oldtimes` (lab/runtime/container_logs.py)."""


def hidden_directories() -> tuple[str, ...]:
    """Return the directories of the machine that programs in a pod do not see: the users' homes, and where labs have their sockets."""
    return ("/root", "/home", os.path.expanduser("~"), str(base()))


def base() -> Path:
    """Where this user's labs are. Raises RequirementError when the directory is not this user's, or out of reach."""
    if owns_run():
        return Path("/run/kubenetlab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = (
        Path(os.path.abspath(runtime), "kubenetlab")
        if runtime
        else Path(f"/tmp/kubenetlab-{outer_uid()}")
    )
    try:
        found = directory.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return directory  # whoever makes a lab makes it, or hears why not
    except OSError as error:
        raise unusable(directory, error.strerror or str(error)) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise unusable(directory, "it belongs to somebody else")
    return directory


def owns_run() -> bool:
    """Return True for root of the machine, and for root of a container with a /run of its own.

    False for an ordinary user, and for one who is root in a user namespace alone (`unshare --map-root-user`).
    """
    return os.geteuid() == 0 and (is_first_user_namespace() or os.access("/run", os.W_OK))


def unusable(directory: Path, reason: str) -> RequirementError:
    """Return the error for a run directory that cannot be used, with what to do about it."""
    hint = (
        "set XDG_RUNTIME_DIR to a directory of your own"
        if not owns_run()
        else "a lab of root keeps its sockets below /run (docker run --tmpfs /run)"
    )
    return RequirementError(f"{directory} cannot be used: {reason}; {hint}")


def of(lab: str) -> Path:
    """The run directory of a lab. Raises UsageError for a name that no lab can have: it would lead elsewhere."""
    if fault := lab_name_fault(lab):
        raise UsageError(f"--lab {lab}: {fault}")
    return base() / lab


def node_agent_socket(number: int) -> str:
    """A node agent's."""
    return f"node-agent-{number}.sock"


def worker_socket(number: int) -> str:
    """The name of an app worker's socket."""
    return f"worker-{number}.sock"


def container_log(netns: str, container: str) -> str:
    """The name of the file with what a container's process prints; there is room for the ending of the run before."""
    return file_name(f"{netns.replace('/', '_')}.{container}.log", spare=LOG_ENDING_BYTES)


def names() -> list[str]:
    """All labs that have a run directory, alive or dead."""
    directory = base()
    return (
        sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
        if directory.is_dir()
        else []
    )


def is_alive(lab: str) -> bool:
    """True when the lab's init holds the API socket: connecting is refused exactly when it is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(of(lab) / API_SOCKET))
        except OSError:
            return False
    return True
