"""Creation of a lab: a fork of this process, with all modules imported, becomes the lab's init.

Until this process sends `keep`, the lab dies together with it, so that a failure leaves nothing
behind. After `keep`, the lab runs on its own.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from kubenetlab import errors
from kubenetlab.api.lab import LabSecret
from kubenetlab.api.store import Cluster
from kubenetlab.errors import KubenetlabError, LabError, RequirementError, os_error_text
from kubenetlab.kernel.features.limits import read_limits
from kubenetlab.kernel.namespaces import pause
from kubenetlab.kernel.namespaces.netns_pool import NetnsPoolSource
from kubenetlab.kernel.processes.identity import open_process
from kubenetlab.kernel.processes.inheritance import default_umask
from kubenetlab.lab import cleanup, rundir
from kubenetlab.lab.bootstrap import Bootstrap
from kubenetlab.lab.capacity import node_agents_for, require_capacity, workers_for
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.messages.creation import (
    CreationFailed,
    CreationMessage,
    InitStarted,
    LabBuilt,
    Progress,
)
from kubenetlab.lab.processes import init
from kubenetlab.lab.store import store_file
from kubenetlab.lab.transport.frames import FrameDecoder
from kubenetlab.lab.transport.protocol import MessageError, decode, decoder_of

STOPPED_BY_SIGINT = 130
"""Exit status of a command that was interrupted."""
UNDO_TIMEOUT_S = 5.0
"""Time allowed for the processes of a lab that was given up to exit, in seconds."""
_RECEIVE_BYTES = 65536
_SEED_BYTES = 32
"""Random bytes of a lab, from which the private keys of its nodes are derived."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

OnProgress = Callable[[Progress], None]


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM before the lab was complete: the lab has been removed."""


def create(
    lab: str,
    bootstrap: Bootstrap,
    *,
    nodes: int,
    keep_failed: bool = False,
    on_progress: OnProgress = lambda message: None,
    blank_namespaces: NetnsPoolSource | None = None,
) -> LabBuilt:
    """Create a lab from its first store; return the agent's report.

    keep_failed: True if a lab whose agent reports an error continues to run.
    on_progress: called with each progress message of the agent.
    blank_namespaces: source of preallocated network namespaces.

    Raises LabError if the lab is up already, RequirementError or ApplyError if it cannot be
    created, Interrupted on a signal. Nothing of the lab is left then, except with `keep_failed`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    creation = _Creation(lab)
    try:
        creation.start(bootstrap, nodes, blank_namespaces)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return creation.wait_until_built(on_progress, keep_failed=keep_failed)
    except OSError as error:
        raise RequirementError(f"cannot create lab {lab}: {os_error_text(error)}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        creation.finish()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class _Creation:
    """Creation of one lab: `start`, `wait_until_built`, and in any case `finish`."""

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self._claim: int | None = None
        """Locked descriptor of the run directory."""
        self._context: LabContext | None = None
        self._socket: socket.socket | None = None
        """This process's end of the progress socket."""
        self._frames = FrameDecoder()
        self._init: int | None = None
        """Pidfd of the lab's init."""
        self._is_kept = False

    def start(self, bootstrap: Bootstrap, nodes: int, namespaces: NetnsPoolSource | None) -> None:
        """Check the machine, create the run directory, and fork the lab's init."""
        limits = read_limits()
        require_capacity(self._lab, bootstrap.cluster, limits)
        with default_umask():
            self._claim = cleanup.claim(self._lab)
            for number in _SIGNALS:
                signal.signal(number, _interrupt)
            self._context, self._socket = _prepare(self._lab, bootstrap, nodes)
        self._context.limits = limits
        self._context.netns_pool = namespaces
        init.start(self._context, self._socket, self._claim)
        self._context.close_progress()
        if namespaces is not None:
            namespaces.close()

    def wait_until_built(self, on_progress: OnProgress, *, keep_failed: bool) -> LabBuilt:
        """Return the agent's report that everything was built. Raises KubenetlabError."""
        for message in self._messages():
            match message:
                case CreationFailed():
                    if keep_failed:
                        self._keep()
                    raise _error(message)
                case LabBuilt():
                    # A signal that arrives from here on must not remove the lab.
                    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                    self._keep()
                    return message
                case _:
                    on_progress(message)
        raise LabError(f"the lab died while it was being created{_log_tail(self._lab)}")

    def finish(self) -> None:
        """Release the run directory; unless the lab is kept, end its processes and remove it."""
        if self._is_kept:
            if self._claim is not None:
                os.close(self._claim)
            return
        if self._context is not None:
            self._context.close_progress()
        if self._init is None and self._socket is not None:
            self._init = _wait_for_init(self._socket, self._frames)
        if self._init is not None:
            _kill(self._init)
        if self._claim is not None:
            cleanup.remove_dead_lab(self._lab, self._claim)

    def _messages(self) -> Iterator[Progress | LabBuilt | CreationFailed]:
        """Yield the messages of the lab until it closes the socket; remember its init.

        A signal interrupts only the wait for them, because `finish` needs the pid of init.
        """
        assert self._socket is not None
        while True:
            select.select([self._socket], [], [])
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            data = self._socket.recv(_RECEIVE_BYTES)
            messages = list(_decode_messages(self._frames, data))
            for message in messages:
                if isinstance(message, InitStarted):
                    self._init = _open_init(message)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if not data:
                return
            yield from (message for message in messages if not isinstance(message, InitStarted))

    def _keep(self) -> None:
        """Tell the lab to continue without this process."""
        assert self._socket is not None
        self._socket.send(b"keep")
        self._is_kept = True


def _prepare(lab: str, bootstrap: Bootstrap, nodes: int) -> tuple[LabContext, socket.socket]:
    """Write the files that init needs; return its context and our end of the progress socket."""
    directory = rundir.run_directory(lab)
    if rundir.owns_run():
        with suppress(OSError):  # only `ip netns` needs the directory
            os.makedirs(rundir.RUN_NETNS, mode=0o755, exist_ok=True)
    pause.install(directory / rundir.PAUSE)
    seed = LabSecret(seed=os.urandom(_SEED_BYTES).hex())
    bootstrap = bootstrap._replace(cluster=bootstrap.cluster.with_changes([seed]))
    store_file.require_readable(bootstrap.cluster, Cluster())
    store_file.save(bootstrap.cluster, directory / rundir.STORE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    context = LabContext(
        lab, directory, node_agents_for(nodes), workers_for(nodes), bootstrap, theirs
    )
    return context, ours


def _decode_messages(frames: FrameDecoder, data: bytes) -> Iterator[CreationMessage]:
    """Yield the messages that the received bytes complete."""
    for frame in frames.feed(data):
        try:
            yield decode(frame.body, decoder_of(CreationMessage))
        except MessageError as error:
            raise LabError(f"the new lab sent a message that cannot be decoded: {error}") from None


def _open_init(message: InitStarted) -> int | None:
    """Open a pidfd of init; None if it is dead."""
    try:
        return open_process(message.process)
    except ProcessLookupError:
        return None


def _wait_for_init(connection: socket.socket, frames: FrameDecoder) -> int | None:
    """Wait for the message with init's pid and open a pidfd of it; None if init is dead.

    The run directory cannot be removed as long as an init is running that has not sent its pid.
    """
    connection.settimeout(UNDO_TIMEOUT_S)
    try:
        while data := connection.recv(_RECEIVE_BYTES):
            for message in _decode_messages(frames, data):
                if isinstance(message, InitStarted):
                    return _open_init(message)
    except (OSError, LabError):
        pass
    return None


def _kill(init_pidfd: int) -> None:
    """Kill a lab's init and wait until it has exited; close its pidfd."""
    try:
        signal.pidfd_send_signal(init_pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    select.select([init_pidfd], [], [], UNDO_TIMEOUT_S)
    os.close(init_pidfd)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def _error(message: CreationFailed) -> KubenetlabError:
    """Return the error that a process of the lab reported, as an exception of this process."""
    type_ = getattr(errors, message.kind, errors.BugError)
    if "KUBENETLAB_DEBUG" in os.environ:
        print(message.trace, file=sys.stderr)
    error: KubenetlabError = type_(message.error)
    return error


def _log_tail(lab: str) -> str:
    """Return the last lines of the lab's log, for a lab that died without reporting an error."""
    try:
        lines: Sequence[str] = (
            (rundir.run_directory(lab) / rundir.LOG).read_text(errors="replace").splitlines()
        )
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-5:])
