"""Server of init: forks processes into pods on request, and reports their exits to all clients."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.log import write_text
from kubenetlab.lab.processes.output import Outputs
from kubenetlab.lab.processes.pod_processes import PodProcess, PodProcesses
from kubenetlab.lab.processes.spawner import Spawner
from kubenetlab.lab.transport.json_frames import FrameDecoder, encode

if TYPE_CHECKING:
    from kubenetlab.lab.runtime.container_limits import ContainerLimits

ACCEPT_PAUSE_S: Final = 0.05
"""Delay after a connection that could not be accepted, in seconds: poll() returns it at once."""
_SHARED: Final = ("working_dir", "capabilities")
"""Arguments that the command of a probe has in common with its container's own process."""


class PodProcessServer:
    """Connections of clients, and the processes in pods that they have asked for.

    Requests, by their key `do` (all pids are of the lab's PID namespace):

    spawn        fork a container's own process into a pod
    exec         fork a process that joins a container's own process; it ends with the connection
    signal       send a signal to the process of a run
    list         return all processes, and the exits that are not acknowledged
    acknowledge  drop such exits
    """

    def __init__(
        self,
        context: LabContext,
        poll: select.poll,
        spawner: Spawner,
        outputs: Outputs,
        limits: ContainerLimits,
        role_in_pod: Callable[[str, dict[str, Any]], Role],
    ) -> None:
        """Create a server without connections.

        poll:        registers the descriptors of connections; the caller passes their events on.
        role_in_pod: returns the role of a name with its arguments, or raises KeyError.
        """
        self._context = context
        self._poll = poll
        self._spawner = spawner
        self._outputs = outputs
        self._limits = limits
        self._role_in_pod = role_in_pod
        self._processes = PodProcesses()
        self._connections: dict[int, tuple[socket.socket, FrameDecoder]] = {}
        """Descriptor → connection of a client, and its frame decoder."""

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
        for message in frames.feed(data):
            self._send(fd, {"answers": message.get("id", 0), **self._serve(message, fd)})

    def has_process(self, pid: int) -> bool:
        """Return True for a process that was forked on request."""
        return pid in self._processes

    def report_exit(self, pid: int, status: int) -> None:
        """Report the exit of a process to all clients; ignore processes of other origin.

        status: as waitpid() returns it.
        """
        event = self._processes.record_exit(pid, status, time.time())
        if event is not None:
            event |= self._limits.end(event["run"])
            self._outputs.drain(pid)
            for fd in list(self._connections):
                self._send(fd, event)

    def close_inherited(self) -> None:
        """Close the connections in a fork of init."""
        for connection, _ in self._connections.values():
            connection.close()

    def _serve(self, message: dict[str, Any], client: int) -> dict[str, Any]:
        """Return the answer to one request.

        client: descriptor of the connection.
        """
        try:
            match message["do"]:
                case "list":
                    return self._processes.listing()
                case "acknowledge":
                    self._processes.acknowledge(message["runs"])
                    return {"ok": True}
                case "signal":
                    return {"ok": self._processes.signal(message["run"], message["signal"])}
                case "spawn":
                    return self._start(
                        message, ProcessId(*message["sandbox"]), message["arguments"]
                    )
                case "exec":
                    return self._start_beside(message, client)
            return {"error": f"unknown request {message['do']}"}
        except ProcessLookupError as error:
            return {"error": str(error)}
        except (KeyError, OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _start_beside(self, message: dict[str, Any], client: int) -> dict[str, Any]:
        """Fork a process that joins a container's own process; return the answer."""
        arguments = message["arguments"]
        container = self._processes.of_container(arguments["netns"], arguments["beside"])
        shared = {name: container.arguments.get(name) for name in _SHARED}
        joined = {
            "beside": ProcessId.of(container.pid),
            "limits": self._limits.of(container.run),
        }
        return self._start(message, container.sandbox, {**arguments, **shared, **joined}, client)

    def _start(
        self,
        message: dict[str, Any],
        sandbox: ProcessId,
        arguments: dict[str, Any],
        client: int = -1,
    ) -> dict[str, Any]:
        """Fork the process of a request; return the answer.

        client: descriptor of the connection with which the process ends; -1 for none.
        """
        is_limited = message["role"] == "command" and "beside" not in arguments
        limits = {"limits": self._limits.begin(message["run"], arguments)} if is_limited else {}
        role = self._role_in_pod(message["role"], {**arguments, **limits})
        log = self._log(arguments)
        try:
            pid = self._spawner.spawn_in_pod(
                str(message["role"]), role, sandbox, log, has_times="beside" not in arguments
            )
        except BaseException:
            self._limits.end(message["run"])
            raise
        self._processes.add(
            PodProcess(message["run"], pid, message["role"], sandbox, arguments, client)
        )
        return {"pid": pid}

    def _log(self, arguments: Mapping[str, Any]) -> str:
        return self._context.path(rundir.container_log(arguments["netns"], arguments["container"]))

    def _send(self, fd: int, message: dict[str, Any]) -> None:
        """Send a message on a connection, unless it has been dropped."""
        if fd not in self._connections:
            return
        connection, _ = self._connections[fd]
        try:
            connection.sendall(encode(message))
        except OSError:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        """Close a connection; end the processes that end with it, and delete their logs."""
        connection, _ = self._connections.pop(fd)
        self._poll.unregister(fd)
        connection.close()
        for process in self._processes.abandon(fd):
            with suppress(OSError):
                os.unlink(self._log(process.arguments))
