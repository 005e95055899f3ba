"""All labs of this machine that the user may see, each asked at the same time and none waited for too long."""

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
from typing import Any, Final, Literal

from msgspec import Struct, structs

from kubenetlab.errors import KubenetlabError
from kubenetlab.kernel.processes.usage import usage
from kubenetlab.lab import rundir
from kubenetlab.lab.client import Client

DEADLINE_S: Final = 3.0
"""Time after which a lab's agent counts as not answering."""
_OTHERS: Final = ("run/user/*/kubenetlab/*", "tmp/kubenetlab-*/*")
"""Run directories of other users' labs, below /; root lists these, too."""


class LabSummary(Struct, frozen=True):
    """One lab; what only its agent knows is None where the agent does not answer, or does not answer this user."""

    name: str
    owner: str
    state: Literal["up", "no answer", "private"]
    """`private` for another user's lab, whose API serves its owner alone."""
    init_pid: int
    age_s: float
    processes: int
    memory_bytes: int
    nodes: int | None = None
    pods: int | None = None
    ready: int | None = None
    """Pods that are ready or completed."""
    services: int | None = None
    faults: tuple[str, ...] | None = None
    """Summary of each fault that was made on purpose."""


class _Init(Struct, frozen=True):
    name: str
    directory: Path
    pid: int
    uid: int


def overview(
    deadline_s: float = DEADLINE_S, on_warning: Callable[[str], None] | None = None
) -> list[LabSummary]:
    """Return every lab that is up, by owner and name. Labs that do not answer within the deadline are part of it."""
    inits = [
        init
        for name, directory in _directories()
        if (init := _init(name, directory, deadline_s)) is not None
    ]
    answers = _ask([init for init in inits if init.uid == os.geteuid()], deadline_s, on_warning)
    used = usage(init.pid for init in inits)
    found = [
        _summary(init, answers.get(init.directory), used[init.pid])
        for init in inits
        if init.pid in used
    ]
    return sorted(found, key=lambda lab: (lab.owner, lab.name))


def _directories() -> Iterator[tuple[str, Path]]:
    """Yield name and run directory of each lab, alive or dead: this user's, and for root those of other users."""
    for name in rundir.names():
        yield name, rundir.base() / name
    if os.geteuid() == 0:
        for pattern in _OTHERS:
            yield from (
                (path.name, path)
                for path in sorted(Path("/").glob(pattern))
                if not path.is_symlink()
            )


def _init(name: str, directory: Path, deadline_s: float) -> _Init | None:
    """Return the lab's init, which holds the API socket; None for a dead lab.

    A stopped init still has a socket, whose backlog may be full: then its pid is not known, and the lab is left out.
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


def _ask(
    inits: list[_Init], deadline_s: float, on_warning: Callable[[str], None] | None
) -> dict[Path, Any]:
    """Return what `inspect` shows of each lab, by run directory, as far as the answers come in time."""
    answers: queue.Queue[tuple[Path, Any]] = queue.Queue()
    for init in inits:
        # Not a thread pool: at exit it would join a thread that waits for a lab that does not answer.
        threading.Thread(
            target=_inspect, args=(init, deadline_s, on_warning, answers), daemon=True
        ).start()
    found: dict[Path, Any] = {}
    deadline = time.monotonic() + deadline_s
    for _ in inits:
        try:
            directory, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[directory] = answer
    return found


def _inspect(
    init: _Init,
    deadline_s: float,
    on_warning: Callable[[str], None] | None,
    answers: queue.Queue[tuple[Path, Any]],
) -> None:
    try:
        answer = Client(init.name, deadline_s, on_warning).inspect()
    except (KubenetlabError, OSError):
        answer = None
    answers.put((init.directory, answer))


def _summary(init: _Init, seen: Any, used: Any) -> LabSummary:
    state: Literal["no answer", "private"] = "no answer" if init.uid == os.geteuid() else "private"
    found = LabSummary(
        init.name,
        _user(init.uid),
        state,
        init.pid,
        round(used.age_s, 1),
        used.processes,
        used.memory_bytes,
    )
    if seen is None:
        return found
    return structs.replace(
        found,
        state="up",
        nodes=len(seen["nodes"]),
        pods=len(seen["pods"]),
        ready=sum(pod["ready"] or pod["phase"] == "Succeeded" for pod in seen["pods"]),
        services=len(seen["services"]),
        faults=tuple(fault["summary"] for fault in seen["faults"]),
    )


def _user(uid: int) -> str:
    """Return the name of a user; the number of one without an account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
