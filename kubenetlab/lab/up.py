"""Making a lab: everything is planned here, then a warm fork of this process becomes the lab's init.

Until `keep` is sent the lab dies with us, so whatever happens here leaves nothing behind; after it the lab lives on its own.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kubenetlab import errors
from kubenetlab.api.store import Cluster
from kubenetlab.errors import KubenetlabError, LabError, RequirementError, refusal
from kubenetlab.kernel.features.limits import read as read_limits
from kubenetlab.kernel.namespaces import pause
from kubenetlab.kernel.namespaces.netns_pool import NetnsPoolSource
from kubenetlab.kernel.processes.identity import ProcessId, open_process
from kubenetlab.kernel.processes.inheritance import default_umask
from kubenetlab.lab import cleanup, rundir
from kubenetlab.lab.capacity import check_room, node_agents_for, workers_for
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.processes import init
from kubenetlab.lab.store import store_file
from kubenetlab.lab.transport.frames import Frames

STOPPED_BY_SIGINT = 130
UNDO_TIMEOUT_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

OnProgress = Callable[[dict[str, Any]], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM, before the lab was kept: it is gone again."""


def create(
    lab: str,
    cluster: Cluster,
    *,
    nodes: int,
    keep_failed: bool = False,
    on_progress: OnProgress = lambda message: None,
    blank_namespaces: NetnsPoolSource | None = None,
) -> dict[str, Any]:
    """Makes a lab out of a store that the controllers are content with; returns what the agent said when all was built.

    Raises LabError when the lab is up already, RequirementError or ApplyError when it cannot be made, Interrupted on a signal; in
    each case nothing is left, except with `keep_failed`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    life: int | None = None
    is_kept = False
    claim: int | None = None
    boot: LabContext | None = None
    ours: socket.socket | None = None
    frames = Frames()
    try:
        limits = read_limits()
        check_room(lab, cluster, limits)
        with default_umask():
            claim = cleanup.claim(lab)
            for number in _SIGNALS:
                signal.signal(number, _interrupt)
            boot, ours = _boot(lab, cluster, nodes)
        boot.limits = limits
        boot.blanks = blank_namespaces
        init.start(boot, ours, claim)
        assert boot.progress is not None
        boot.progress.close()
        if blank_namespaces is not None:
            blank_namespaces.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        while True:
            data = ours.recv(65536)
            if not data:
                raise LabError(f"the lab died while it was being made{_log_tail(lab)}")
            for message in frames.feed(data):
                if "init" in message:
                    life = _life_of(message)
                elif "error" in message:
                    if keep_failed:
                        ours.send(b"keep")
                        is_kept = True
                    raise _error(message)
                elif "built" in message:
                    signal.pthread_sigmask(
                        signal.SIG_BLOCK, _SIGNALS
                    )  # from here on a signal shall not take the lab away
                    ours.send(b"keep")
                    is_kept = True
                    return message
                else:
                    on_progress(message)
    except OSError as error:
        raise RequirementError(f"cannot make lab {lab}: {refusal(error)}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if not is_kept:
            if boot is not None and boot.progress is not None:
                boot.progress.close()
            if life is None and ours is not None:
                life = _awaited_life(ours, frames)
            _undo(lab, life, claim)
        elif claim is not None:
            os.close(claim)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _boot(lab: str, cluster: Cluster, nodes: int) -> tuple[LabContext, socket.socket]:
    directory = rundir.of(lab)
    if rundir.owns_run():
        with suppress(OSError):  # names for `ip netns`, without which a lab can be
            os.makedirs(rundir.RUN_NETNS, mode=0o755, exist_ok=True)
    pause.install(directory / rundir.PAUSE)
    store_file.require_readable(cluster, Cluster())
    store_file.save(cluster, directory / rundir.STORE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return LabContext(
        lab, directory, node_agents_for(nodes), workers_for(nodes), cluster, theirs
    ), ours


def _life_of(message: dict[str, Any]) -> int | None:
    """Open a pidfd of the lab's init, which has sent its pid and start time; None when it is dead already."""
    try:
        return open_process(ProcessId(*message["init"]))
    except ProcessLookupError:
        return None


def _awaited_life(ours: socket.socket, frames: Frames) -> int | None:
    """The lab's init where it has begun and not yet said who it is: until it is dead nothing can be taken away. None: it is."""
    ours.settimeout(UNDO_TIMEOUT_S)
    try:
        while data := ours.recv(65536):
            for message in frames.feed(data):
                if "init" in message:
                    return _life_of(message)
    except OSError:
        pass
    return None


def _undo(lab: str, life: int | None, claim: int | None) -> None:
    """Ends what was begun, waits until the kernel has freed it, and removes the traces."""
    if life is not None:
        try:
            signal.pidfd_send_signal(life, signal.SIGKILL)
        except ProcessLookupError:
            pass
        select.select([life], [], [], UNDO_TIMEOUT_S)
        os.close(life)
    if claim is not None:
        cleanup.sweep(lab, claim)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def _error(message: dict[str, Any]) -> KubenetlabError:
    """The error that one of the lab's processes met, as if it had been raised here."""
    type_ = getattr(errors, str(message["kind"]), errors.BugError)
    if "KUBENETLAB_DEBUG" in os.environ:
        print(message["trace"], file=sys.stderr)
    error: KubenetlabError = type_(message["error"])
    return error


def _log_tail(lab: str) -> str:
    """The last lines of the lab's log, for a death without a word."""
    try:
        lines: Sequence[str] = (
            (rundir.of(lab) / rundir.LOG).read_text(errors="replace").splitlines()
        )
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-5:])
