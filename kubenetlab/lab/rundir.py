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

import fcntl
import os
import socket
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kubenetlab.errors import KubenetlabError, LabError, RequirementError, UsageError
from kubenetlab.kernel.permissions import is_first_user_namespace, outer_uid
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
"""Of `.previous` and `.oldtimes` (lab/container_logs.py)."""
SWEEP_TIMEOUT_S = 10.0
"""How long to wait for somebody who is making the lab, or taking its traces away."""


def hidden_directories() -> tuple[str, ...]:
    """Return the directories of the machine that programs in a pod do not see: the users' homes, and where labs have their sockets."""
    return ("/root", "/home", os.path.expanduser("~"), str(base()))


def base() -> Path:
    """Where this user's labs are. Raises RequirementError when the directory is not this user's, or out of reach."""
    if owns_run():
        return Path("/run/kubenetlab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = Path(os.path.abspath(runtime), "kubenetlab") if runtime else Path(f"/tmp/kubenetlab-{outer_uid()}")
    try:
        found = directory.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return directory  # whoever makes a lab makes it, or hears why not
    except OSError as error:
        raise _unusable(directory, error.strerror or str(error)) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise _unusable(directory, "it belongs to somebody else")
    return directory


def owns_run() -> bool:
    """Return True for root of the machine, and for root of a container with a /run of its own.

    False for an ordinary user, and for one who is root in a user namespace alone (`unshare --map-root-user`).
    """
    return os.geteuid() == 0 and (is_first_user_namespace() or os.access("/run", os.W_OK))


def _unusable(directory: Path, reason: str) -> RequirementError:
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
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir()) if directory.is_dir() else []


def claim(lab: str) -> int:
    """The run directory, empty, its owner's alone, and held: a descriptor to be closed when the lab is made or given up.

    Raises LabError when the lab is up, or somebody else holds its directory.
    """
    directory = of(lab)
    while True:
        try:
            base().mkdir(mode=0o755 if owns_run() else 0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            continue  # the last lab beside us has just taken the base away
        except OSError as error:
            raise _unusable(directory, error.strerror or str(error)) from None
        held = _hold(directory, 0.0)
        if held is None:
            continue
        if is_alive(lab):
            os.close(held)
            raise LabError(f"lab {lab} is up already")
        _empty(directory)
        return held


def is_alive(lab: str) -> bool:
    """True when the lab's init holds the API socket: connecting is refused exactly when it is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(of(lab) / API_SOCKET))
        except OSError:
            return False
    return True


def sweep(lab: str, held: int | None = None) -> bool:
    """Removes what a dead lab left behind: its run directory, and its links in /run/netns that lead nowhere.

    `held` is a claim of ours, which ends here. Returns False, having done nothing, when the lab lives. Raises LabError when
    somebody holds the directory for long.
    """
    directory = of(lab)
    if held is None:
        held = _hold(directory, SWEEP_TIMEOUT_S)
    if held is not None:
        try:
            if is_alive(lab):
                return False
            _empty(directory)
            directory.rmdir()
        finally:
            os.close(held)
    clear_links([lab])
    try:
        directory.parent.rmdir()
    except OSError:
        pass  # other labs are there
    return True


def clear_links(dead: Sequence[str]) -> None:
    """Removes what labs that are dead have left outside their directories: links in /run/netns, which lead nowhere, or to whoever has the
    number now, and what an uplink needed of the machine."""
    for lab in dead:
        _remove_cgroups(of(lab))
        with suppress(KubenetlabError, OSError):  # `down` of that lab says what is in the way; other labs' commands go on
            _take_uplink_away(lab)
    if not owns_run() or not dead or not os.path.isdir(RUN_NETNS):
        return
    prefixes = tuple(f"{lab}_" for lab in dead)
    for link in os.scandir(RUN_NETNS):
        if link.name.startswith(prefixes) and link.is_symlink():
            try:
                os.unlink(link.path)
            except FileNotFoundError:
                pass  # another command did it


def _hold(directory: Path, timeout_s: float) -> int | None:
    """A descriptor of the directory, locked; None when there is no such directory (any more). Raises LabError when others hold it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(held), os.stat(directory)):
                return held
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(held)
                raise LabError(f"lab {directory.name} is being made by somebody else at this moment") from None
            time.sleep(0.01)
        except FileNotFoundError:
            pass
        os.close(held)


def _take_uplink_away(lab: str) -> None:
    """What a lab has on the machine itself, if anything."""
    if (of(lab) / UPLINK).exists():
        from kubenetlab.lab import uplink

        uplink.take_away(lab)


def _remove_cgroups(directory: Path) -> None:
    """Remove the cgroups of a dead lab, if it has made any."""
    if (directory / CGROUPS).exists():
        from kubenetlab.lab.container_limits import remove_groups

        remove_groups(directory)


def _empty(directory: Path) -> None:
    _take_uplink_away(directory.name)
    _remove_cgroups(directory)
    for entry in directory.iterdir():
        if stat.S_ISDIR(entry.lstat().st_mode):
            entry.rmdir()
        else:
            entry.unlink(missing_ok=True)
