"""Overview of all labs of this machine that the user may see.

All agents are queried at the same time, with one deadline for all of them.
"""

from __future__ import annotations

import os
import pwd
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, structs

from kubenetlab.errors import KubenetlabError
from kubenetlab.kernel.processes.usage import Usage, usage
from kubenetlab.lab import rundir
from kubenetlab.lab.client import Client

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

DEADLINE_S: Final = 3.0
"""Time after which a lab's agent is reported as not answering, in seconds."""
_OTHERS: Final = ("run/user/*/kubenetlab/*", "tmp/kubenetlab-*/*")
"""Run directories of other users' labs, relative to /. Only root lists them."""


class LabSummary(Struct, frozen=True):
    """State of one lab.

    Optional fields are None if the agent does not answer, or does not answer this user.
    """

    name: str
    owner: str
    state: Literal["up", "no answer", "private"]
    """`private` for the lab of another user, whose API serves only its owner."""
    init_pid: int
    age_s: float
    processes: int
    memory_bytes: int
    nodes: int | None = None
    pods: int | None = None
    ready: int | None = None
    """Number of pods that are ready or completed."""
    services: int | None = None
    faults: tuple[str, ...] | None = None
    """Summary of each fault that was created with `break`."""


class _Init(Struct, frozen=True):
    """Init process of a lab, and the user that owns it."""

    name: str
    directory: Path
    pid: int
    uid: int


def overview(
    deadline_s: float = DEADLINE_S, on_warning: Callable[[str], None] | None = None
) -> list[LabSummary]:
    """Return every lab that is up, ordered by owner and name.

    Labs that do not answer within the deadline are included.
    """
    inits = [
        init
        for name, directory in _directories()
        if (init := _init(name, directory, deadline_s)) is not None
    ]
    own = [init for init in inits if init.uid == os.geteuid()]
    inspections = _inspect_all(own, deadline_s, on_warning)
    used = usage(init.pid for init in inits)
    summaries = [
        _summary(init, inspections.get(init.directory), used[init.pid])
        for init in inits
        if init.pid in used
    ]
    return sorted(summaries, key=lambda lab: (lab.owner, lab.name))


def _directories() -> Iterator[tuple[str, Path]]:
    """Yield name and run directory of each lab, alive or dead: for root those of all users."""
    for name in rundir.lab_names():
        yield name, rundir.base_directory() / name
    if os.geteuid() == 0:
        for pattern in _OTHERS:
            yield from (
                (path.name, path)
                for path in sorted(Path("/").glob(pattern))
                if not path.is_symlink()
            )


def _init(name: str, directory: Path, deadline_s: float) -> _Init | None:
    """Return the init of a lab, which holds the API socket; None for a dead lab.

    Return None as well if the backlog of the socket is full, as it may be when init is stopped: its
    pid is then unknown.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(deadline_s)
        try:
            probe.connect(str(directory / rundir.API_SOCKET))
            pid, uid, _ = struct.unpack(
                "iii", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
        except OSError:
            return None
    return _Init(name, directory, pid, uid)


def _inspect_all(
    inits: list[_Init], deadline_s: float, on_warning: Callable[[str], None] | None
) -> dict[Path, Inspection | None]:
    """Return the data of `inspect` by run directory, for the labs that answer in time."""
    replies: queue.Queue[tuple[Path, Inspection | None]] = queue.Queue()
    for init in inits:
        # No thread pool: at exit it would join threads that wait for labs that do not answer.
        threading.Thread(
            target=_inspect, args=(init, deadline_s, on_warning, replies), daemon=True
        ).start()
    result: dict[Path, Inspection | None] = {}
    deadline = time.monotonic() + deadline_s
    for _ in inits:
        try:
            directory, inspection = replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        result[directory] = inspection
    return result


def _inspect(
    init: _Init,
    deadline_s: float,
    on_warning: Callable[[str], None] | None,
    replies: queue.Queue[tuple[Path, Inspection | None]],
) -> None:
    """Put the run directory of a lab and its data of `inspect`, or None, into a queue."""
    try:
        inspection: Inspection | None = Client(init.name, deadline_s, on_warning).inspect()
    except (KubenetlabError, OSError):
        inspection = None
    replies.put((init.directory, inspection))


def _summary(init: _Init, inspection: Inspection | None, used: Usage) -> LabSummary:
    state: Literal["no answer", "private"] = "no answer" if init.uid == os.geteuid() else "private"
    summary = LabSummary(
        init.name,
        _user(init.uid),
        state,
        init.pid,
        round(used.age_s, 1),
        used.processes,
        used.memory_bytes,
    )
    if inspection is None:
        return summary
    return structs.replace(
        summary,
        state="up",
        nodes=len(inspection["nodes"]),
        pods=len(inspection["pods"]),
        ready=sum(pod["ready"] or pod["phase"] == "Succeeded" for pod in inspection["pods"]),
        services=len(inspection["services"]),
        faults=tuple(fault["summary"] for fault in inspection["faults"]),
    )


def _user(uid: int) -> str:
    """Return the name of a user, or the uid if the user has no account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
