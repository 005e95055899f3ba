"""Server of init: forks processes into pods on request, and reports their exits to all clients."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import structs

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.log import write_text
from kubenetlab.lab.messages.init import (
    AcknowledgeExits,
    Command,
    CoreDns,
    ExecuteInContainer,
    ListProcesses,
    PodProcess,
    ProcessExited,
    ProcessList,
    SendSignal,
    SignalSent,
    StartContainer,
    Started,
)
from kubenetlab.lab.processes.daemons import Daemons
from kubenetlab.lab.processes.output import Outputs
from kubenetlab.lab.processes.pod_processes import PodProcesses, TrackedProcess
from kubenetlab.lab.processes.spawner import Spawner
from kubenetlab.lab.transport.frames import EVENT, FrameDecoder, encode
from kubenetlab.lab.transport.handlers import Handlers
from kubenetlab.lab.transport.protocol import Done, Message
from kubenetlab.programs import COMMAND
from kubenetlab.programs.command import CommandOptions

if TYPE_CHECKING:
    from kubenetlab.lab.runtime.container_limits import AppliedLimits, ContainerLimits

ACCEPT_PAUSE_S: Final = 0.05
"""Pause after a connection that could not be accepted, in seconds.

poll(2) reports the waiting connection again at once, and nothing reports a free descriptor. Without
the pause, init would use a whole processor until a descriptor is free.
"""


class PodRoles(Protocol):
    """Roles of processes in pods; see roles.py."""

    def container_role(self, program: Command | CoreDns, limits: AppliedLimits | None) -> Role:
        """Return the role of a container's own process."""

    def command_role(
        self, options: CommandOptions, limits: AppliedLimits | None, beside: ProcessId
    ) -> Role:
        """Return the role of the command of a probe or hook."""


class PodProcessServer:
    """Connections of clients, and the processes in pods that they have asked for."""

    def __init__(
        self,
        context: LabContext,
        poll: select.poll,
        spawner: Spawner,
        outputs: Outputs,
        limits: ContainerLimits,
        roles: PodRoles,
        daemons: Daemons,
    ) -> None:
        """Create a server without connections.

        poll:    registers the descriptors of connections; the caller passes their events on.
        daemons: whose requests are served, and whose events are reported, too.
        """
        self._context = context
        self._poll = poll
        self._spawner = spawner
        self._outputs = outputs
        self._limits = limits
        self._roles = roles
        self._daemons = daemons
        self._processes = PodProcesses()
        self._connections: dict[int, tuple[socket.socket, FrameDecoder]] = {}
        """Descriptor → connection of a client, and its frame decoder."""
        self._handlers: Handlers[int] = Handlers(
            "init",
            StartContainer.handled_by(self._start_container),
            ExecuteInContainer.handled_by(self._execute_in_container),
            SendSignal.handled_by(self._send_signal),
            ListProcesses.handled_by(self._list_processes),
            AcknowledgeExits.handled_by(self._acknowledge_exits),
            *daemons.handlers,
        )
        daemons.on_change = self._report

    def __contains__(self, fd: int) -> bool:
        return fd in self._connections

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection."""
        try:
            connection, _ = listener.accept()
        except OSError as error:
            write_text(f"cannot accept a connection: {error.strerror}")
            time.sleep(ACCEPT_PAUSE_S)
            return
        self._connections[connection.fileno()] = (connection, FrameDecoder())
        self._poll.register(connection.fileno(), select.POLLIN)

    def receive(self, fd: int) -> None:
        """Read from a connection and answer its requests."""
        connection, frames = self._connections[fd]
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        for frame in frames.feed(data):
            for number, reply in enumerate(self._handlers.replies(frame.body, fd), frame.number):
                assert isinstance(reply, Message)  # no handler is a coroutine
                self._send(fd, reply, number)

    def has_process(self, pid: int) -> bool:
        """Return True for a process that was forked on request."""
        return pid in self._processes or self._daemons.has_process(pid)

    def report_exit(self, pid: int, status: int) -> None:
        """Report the exit of a process to all clients; ignore processes of other origin.

        status: as waitpid() returns it.
        """
        self._daemons.report_exit(pid, status)
        process = self._processes.take_exited(pid)
        if process is not None:
            oom_limit = self._limits.end(process.run)
            event = ProcessExited(process, status, time.time(), oom_limit)
            self._processes.record_exit(event)
            self._outputs.drain(pid)
            self._report(event)

    def _report(self, event: Message) -> None:
        """Send an event to all clients."""
        for fd in list(self._connections):
            self._send(fd, event)

    def close_inherited(self) -> None:
        """Close the connections in a fork of init."""
        for connection, _ in self._connections.values():
            connection.close()

    def _list_processes(self, request: ListProcesses, client: int) -> ProcessList:
        return self._processes.listing()

    def _acknowledge_exits(self, request: AcknowledgeExits, client: int) -> Done:
        self._processes.acknowledge(request.runs)
        return Done()

    def _send_signal(self, request: SendSignal, client: int) -> SignalSent:
        return SignalSent(self._processes.signal(request.run, request.signal))

    def _start_container(self, request: StartContainer, client: int) -> Started:
        """Fork a container's own process."""
        program, options, limits = request.program, None, None
        if isinstance(program, Command):
            options = program.options
            limits = self._limits.begin(request.run, request.container, options.memory_limit)
        process = PodProcess(
            request.run,
            COMMAND if options is not None else "coredns",
            request.netns,
            request.sandbox,
            request.container,
            request.attempt,
        )
        return self._start(
            TrackedProcess(process, options), self._roles.container_role(program, limits)
        )

    def _execute_in_container(self, request: ExecuteInContainer, client: int) -> Started:
        """Fork a process that joins a container's own process.

        client: descriptor of the connection with which the process ends.
        """
        container = self._processes.of_container(request.netns, request.container)
        own = container.process
        options = container.options or CommandOptions(())
        role = self._roles.command_role(
            structs.replace(options, argv=request.argv),
            self._limits.of(own.run),
            ProcessId.of(own.pid),
        )
        process = PodProcess(
            request.run, COMMAND, request.netns, own.sandbox, request.run, is_probe=True
        )
        return self._start(TrackedProcess(process, client=client), role)

    def _start(self, tracked: TrackedProcess, role: Role) -> Started:
        """Fork the process of a request."""
        process = tracked.process
        try:
            pid = self._spawner.spawn_in_pod(
                process.program,
                role,
                process.sandbox,
                self._log(process),
                has_times=not process.is_probe,
            )
        except BaseException:
            self._limits.end(process.run)
            raise
        tracked.process = structs.replace(process, pid=pid)
        self._processes.add(tracked)
        return Started(pid)

    def _log(self, process: PodProcess) -> str:
        return self._context.path(rundir.container_log(process.netns, process.container))

    def _send(self, fd: int, message: Message, number: int = EVENT) -> None:
        """Send a message on a connection, unless it has been dropped."""
        if fd not in self._connections:
            return
        connection, _ = self._connections[fd]
        try:
            connection.sendall(encode(message, number))
        except OSError:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        """Close a connection; end the processes that end with it, and delete their logs."""
        connection, _ = self._connections.pop(fd)
        self._poll.unregister(fd)
        connection.close()
        for process in self._processes.abandon(fd):
            with suppress(OSError):
                os.unlink(self._log(process))
