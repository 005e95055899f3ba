"""The run directory of a lab: its sockets, its store, its log. Nothing in it is the truth about what runs; the kernel is.

/run/kubenetlab/<lab>/        below $XDG_RUNTIME_DIR for a user who is not root; mode 0700
    api.sock                  refuses connections exactly when the lab is dead
    init.sock node-agent.sock worker-N.sock   between the lab's own processes
    store.json                the objects, written before the kernel is touched
    pause  log
    pod_….log                 what a container's own process prints
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from kubenetlab.errors import RequirementError

RUN_NETNS = "/run/netns"
API_SOCKET, INIT_SOCKET, NODE_AGENT_SOCKET = "api.sock", "init.sock", "node-agent.sock"
STORE, LOG, PAUSE = "store.json", "log", "pause"


def base() -> Path:
    """Where this user's labs are. Raises RequirementError when the directory belongs to somebody else."""
    if os.geteuid() == 0:
        return Path("/run/kubenetlab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = Path(runtime, "kubenetlab") if runtime else Path(f"/tmp/kubenetlab-{os.geteuid()}")
    if directory.exists() and (directory.is_symlink() or directory.stat().st_uid != os.geteuid()):
        raise RequirementError(f"{directory} belongs to somebody else; set XDG_RUNTIME_DIR to a directory of your own")
    return directory


def of(lab: str) -> Path:
    """The run directory of a lab."""
    return base() / lab


def worker_socket(number: int) -> str:
    """The name of an app worker's socket."""
    return f"worker-{number}.sock"


def container_log(netns: str, container: str) -> str:
    """The name of the file with what a container's process prints."""
    return f"{netns.replace('/', '_')}.{container}.log"


def names() -> list[str]:
    """All labs that have a run directory, alive or dead."""
    directory = base()
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir()) if directory.is_dir() else []


def create(lab: str) -> Path:
    """Makes the directory, for its owner alone. Raises FileExistsError when it is there."""
    directory = of(lab)
    base().mkdir(mode=0o700 if os.geteuid() else 0o755, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)
    return directory


def is_alive(lab: str) -> bool:
    """True when the lab's init holds the API socket: connecting is refused exactly when it is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(of(lab) / API_SOCKET))
        except OSError:
            return False
    return True


def sweep(lab: str) -> None:
    """Removes what a dead lab left behind: its run directory, and its links in /run/netns that lead nowhere."""
    directory = of(lab)
    if directory.is_dir():
        for entry in directory.iterdir():
            if stat.S_ISDIR(entry.lstat().st_mode):
                entry.rmdir()
            else:
                entry.unlink(missing_ok=True)
        directory.rmdir()
    if os.geteuid() == 0 and os.path.isdir(RUN_NETNS):
        for link in os.scandir(RUN_NETNS):
            if link.is_symlink() and link.name.startswith(f"{lab}_") and not os.path.exists(link.path):
                os.unlink(link.path)
    if directory.parent.is_dir() and not any(directory.parent.iterdir()):
        directory.parent.rmdir()
