"""Run directory of a lab: its sockets, its store, its log.

No file in it tells whether the lab runs: only the kernel knows.

/run/kubenetlab/<lab>/        below $XDG_RUNTIME_DIR for a user who is not root; mode 0700
    api.sock                  refuses connections exactly when the lab is dead
    inner-api.sock            the same API for the lab's own processes, which need it while the lab
                              is created
    init.sock node-agent-N.sock worker-N.sock   sockets between the lab's own processes
    store.json                the objects, written before the kernel is touched
    checkpoint.json           the objects to which `reset` returns (lab/apiserver/checkpoints.py)
    pause  log  uplink.json
    cgroups.json              the cgroups that the lab created for its containers
    pod_….log                 the output of a container's own process
    files/                    files of nodes, and logs of their daemons (kernel/file_trees.py)
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
CHECKPOINT = "checkpoint.json"
CGROUPS = "cgroups.json"
FILES = "files"
FORWARDING = "forwarding.json"
"""File beside the labs: the machine's links on which forwarding is enabled for uplinks."""
PROBE_CACHE = "doctor.json"
"""File beside the labs: the cached results of the feature probes."""
LOG_ENDING_BYTES = 9
"""Length of the suffixes `.previous` and `.oldtimes` (lab/runtime/container_logs.py)."""


def hidden_directories() -> tuple[str, ...]:
    """Return the directories of the machine that containers do not see.

    These are the home directories, and the directory with the sockets of all labs.
    """
    return ("/root", "/home", os.path.expanduser("~"), str(base_directory()))


def base_directory() -> Path:
    """Return the directory of this user's labs, which may not exist yet.

    Raises RequirementError if the directory is inaccessible or belongs to another user.
    """
    if owns_run():
        return Path("/run/kubenetlab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = (
        Path(os.path.abspath(runtime), "kubenetlab")
        if runtime
        else Path(f"/tmp/kubenetlab-{outer_uid()}")
    )
    try:
        status = directory.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return directory  # `up` creates it, or reports why it cannot
    except OSError as error:
        raise unusable_error(directory, error.strerror or str(error)) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise unusable_error(directory, "it is not a directory of this user")
    return directory


def owns_run() -> bool:
    """Return True for root of the machine, and for root of a container that has its own /run.

    Return False for an ordinary user, also for one that is root in a user namespace only
    (`unshare --map-root-user`).
    """
    return os.geteuid() == 0 and (is_first_user_namespace() or os.access("/run", os.W_OK))


def unusable_error(directory: Path, reason: str) -> RequirementError:
    """Return the error for a run directory that cannot be used, with a hint."""
    hint = (
        "set XDG_RUNTIME_DIR to a directory of your own"
        if not owns_run()
        else "a lab of root keeps its sockets below /run (docker run --tmpfs /run)"
    )
    return RequirementError(f"{directory} cannot be used: {reason}; {hint}")


def run_directory(lab: str) -> Path:
    """Return the run directory of a lab.

    Raises UsageError for an invalid name, which could be a path to another directory.
    """
    if fault := lab_name_fault(lab):
        raise UsageError(f"--lab {lab}: {fault}")
    return base_directory() / lab


def node_agent_socket(number: int) -> str:
    """Return the name of a node agent's socket."""
    return f"node-agent-{number}.sock"


def worker_socket(number: int) -> str:
    """Return the name of an app worker's socket."""
    return f"worker-{number}.sock"


def container_log(netns: str, container: str) -> str:
    """Return the name of the log file of a container's process.

    It is short enough for the suffix that marks the log of the previous run.
    """
    return file_name(f"{netns.replace('/', '_')}.{container}.log", spare=LOG_ENDING_BYTES)


def lab_names() -> list[str]:
    """Return the names of all labs that have a run directory, alive or dead."""
    directory = base_directory()
    return (
        sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
        if directory.is_dir()
        else []
    )


def is_alive(lab: str) -> bool:
    """Return True if the lab's init holds the API socket.

    The kernel refuses connections to the socket exactly when init is dead.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(run_directory(lab) / API_SOCKET))
        except OSError:
            return False
    return True
