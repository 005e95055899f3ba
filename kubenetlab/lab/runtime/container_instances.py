"""Runs of built-in programs, which replace the programs of containers, and the pods they are in."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from kubenetlab import programs
from kubenetlab.api.lab import ContainerReport
from kubenetlab.hoststate.programs import ListenPort, ProgramOptions
from kubenetlab.kernel.processes.identity import Process
from kubenetlab.lab.messages.app_worker import ProgramPod, RunReport
from kubenetlab.lab.runtime.listeners import PKTINFO_SPACE, open_listener, reply_source
from kubenetlab.lab.runtime.pod_network import DATAGRAM_BYTES, NetnsSocketFactory, PodSockets
from kubenetlab.lab.transport import grpc_health
from kubenetlab.lab.transport.accepting import accept_each
from kubenetlab.lab.transport.http import IDLE_TIMEOUT_S, RECEIVE_BYTES, serve
from kubenetlab.lab.transport.tls import HANDSHAKE, TlsConnection, localhost_context, server_context
from kubenetlab.names import socket_address
from kubenetlab.programs.dns.resolver import parse
from kubenetlab.programs.kube_proxy_events import SyncEvent
from kubenetlab.programs.support.http import Peer, ProgramContext, Request, Response, plain_peer

if TYPE_CHECKING:
    from ssl import SSLContext

LOG_LINES = 1000
"""Number of lines that the log of a run keeps."""
NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)
MAX_LINE = 4096
"""Maximum number of characters of a log line: a request's target may have thousands."""


class ContainerInstance:
    """One run of a container's built-in program."""

    def __init__(
        self,
        pod: PodInstance,
        container: str,
        attempt: int,
        on_end: Callable[[ContainerInstance], None],
    ) -> None:
        self.pod = pod
        self.container = container
        self.attempt = attempt
        self.program = ""
        self.options: ProgramOptions = {}
        self.sockets: dict[ListenPort, socket.socket] = {}
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.log_end = 0
        """Number of lines written so far, including those that the log no longer keeps."""
        self._on_end = on_end
        self._tasks: set[asyncio.Task[object]] = set()
        self._has_ended = False
        self.is_stopping = False
        """True after SIGTERM."""
        self._memory: object = None
        self._tls: SSLContext | None = None
        """TLS context of the program's servers, if its arguments enable TLS."""
        self._outcome = ContainerReport(attempt, "running", at=time.time())

    @property
    def report(self) -> RunReport:
        """State of the run."""
        return RunReport(self.pod.netns, self.pod.process.id, self.container, self._outcome)

    def update(
        self, program: str, options: ProgramOptions, listeners: Sequence[ListenPort]
    ) -> None:
        """Set program, options and listening ports; open new sockets and close unused ones.

        Raises OSError if a port cannot be opened; no new socket is left open then.
        """
        if "tls" in options and self._tls is None:
            self._tls = server_context(options["tls"])  # read once, as a real program does
        opened = self._open([listener for listener in listeners if listener not in self.sockets])
        for listener in [known for known in self.sockets if known not in listeners]:
            self._close(self.sockets.pop(listener))
        self.program, self.options = program, options
        self._module = programs.load(program)
        if self._memory is None and hasattr(self._module, "initial_state"):
            self._memory = self._module.initial_state()
        for listener, open_socket in opened.items():
            self.sockets[listener] = open_socket
            self._serve_socket(listener, open_socket)
        if hasattr(self._module, "on_options"):
            self._module.on_options(self._context())

    def _open(self, listeners: Sequence[ListenPort]) -> dict[ListenPort, socket.socket]:
        """Open listening sockets in the pod's namespace: all of them, or none (OSError)."""
        opened: dict[ListenPort, socket.socket] = {}
        try:
            for listener in listeners:
                opened[listener] = open_listener(
                    self.pod.namespace, listener, has_ipv6=self.pod.has_ipv6
                )
        except OSError:
            for open_socket in opened.values():
                open_socket.close()
            raise
        return opened

    def _serve_socket(self, listener: ListenPort, open_socket: socket.socket) -> None:
        """Start to serve the clients of a listening socket."""
        if listener.protocol == "UDP":
            # By number: for a socket, the selector formats its addresses into a KeyError first.
            asyncio.get_running_loop().add_reader(
                open_socket.fileno(), self._receive_datagram, open_socket
            )
        else:
            accept_each(
                open_socket,
                partial(self._serve_connection, _SERVERS[listener.protocol]),
                self._log_pause,
            )
        kind = "HTTP" if listener.protocol == "TCP" else listener.protocol
        self.note(f"Started {kind} server on port {listener.port}")

    def notify(self, event: SyncEvent) -> None:
        """Pass an event of the lab to the program, if it handles events."""
        if hasattr(self._module, "on_event") and not self._has_ended:
            self._module.on_event(event, self._context())

    def start_main(self) -> None:
        """Start the program's main function, and schedule its exit if its options set one."""
        self._outcome = ContainerReport(
            self.attempt, "running", at=time.time(), ends_later=self.shutdown_delay_s > 0
        )
        if hasattr(self._module, "main"):
            self._spawn(self._main())
        if (ending := self.options.get("ending")) is not None:
            self._exit(ending["exit_code"], ending["after_s"])

    @property
    def shutdown_delay_s(self) -> float:
        """Time for which the program continues to serve after SIGTERM, in seconds."""
        return float(self.options.get(programs.DELAY_SHUTDOWN, 0))

    def signal_termination(self) -> None:
        """Simulate SIGTERM: the program continues for `shutdown_delay_s` and exits.

        Further calls have no effect.
        """
        if not (self.is_stopping or self._has_ended):
            self.is_stopping = True
            self.note(f"Sleeping {self.shutdown_delay_s:g} seconds before terminating...")
            self._exit(0, self.shutdown_delay_s)

    def fail(self, error: str) -> None:
        """End a run that could not start."""
        self.note(f"Error: {error}")
        self.stop()
        self._outcome = ContainerReport(self.attempt, "failed", 1, error, time.time())

    def stop(self) -> None:
        """Close all sockets and cancel all tasks."""
        self._has_ended = True
        for open_socket in self.sockets.values():
            self._close(open_socket)
        self.sockets.clear()
        for task in self._tasks:
            task.cancel()

    def note(self, line: str) -> None:
        """Write a line to the log, with the current time."""
        self.log_end += 1
        self.log.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line[:MAX_LINE]}")

    def _close(self, open_socket: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(open_socket.fileno())
        open_socket.close()

    def _serve_connection(self, serve: _Serve, connection: socket.socket) -> None:
        self._spawn(serve(self, connection))

    def _log_pause(self, error: OSError) -> None:
        self.note(f"clients have to wait: {error.strerror}")

    async def _serve_tcp(self, connection: socket.socket) -> None:
        """Serve a TCP client by HTTP/1.1, TLS, or gRPC's health protocol, by its first bytes."""
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                received = await asyncio.get_running_loop().sock_recv(connection, RECEIVE_BYTES)
            if self._tls is not None or (
                received.startswith(HANDSHAKE) and getattr(self._module, "SERVES_TLS", False)
            ):
                await self._serve_tls(connection, received)
            elif received.startswith(grpc_health.PREFACE):
                await grpc_health.serve(connection, received)
            else:
                await serve(connection, self._http, received, max_body_bytes=1024 * 1024)
        except (OSError, TimeoutError):
            pass  # the client is gone, or has sent nothing
        finally:
            connection.close()

    async def _serve_tls(self, connection: socket.socket, received: bytes) -> None:
        """Serve HTTP/1.1 over TLS; answer a plain HTTP request as a server in Go does.

        Source: Go's net/http/server.go.
        """
        if not received.startswith(HANDSHAKE):
            await asyncio.get_running_loop().sock_sendall(connection, NOT_TLS)
            return
        tls = TlsConnection(connection, self._tls or localhost_context(), received, is_server=True)
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                await tls.handshake()
        except OSError as error:
            peer = plain_peer(connection.getpeername())
            self.note(
                f"http: TLS handshake error from {socket_address(*peer)}: {error.strerror or error}"
            )
            return
        await serve(tls, self._http, max_body_bytes=1024 * 1024)

    async def _serve_sctp(self, connection: socket.socket) -> None:
        """Answer the messages of an SCTP association as if they were UDP datagrams."""
        loop, peer = asyncio.get_running_loop(), plain_peer(connection.getpeername())
        try:
            while True:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    data = await loop.sock_recv(connection, DATAGRAM_BYTES)
                if not data:
                    return
                if (answer := self._answer(data, peer)) is not None:
                    await loop.sock_sendall(connection, answer)
        except (OSError, TimeoutError):
            pass  # the client is gone
        finally:
            connection.close()

    def _answer(self, data: bytes, peer: Peer) -> bytes | None:
        """Return the program's answer to a datagram, if it has one."""
        answer: bytes | None = (
            self._module.datagram(data, peer, self._context())
            if hasattr(self._module, "datagram")
            else None
        )
        return answer

    def _receive_datagram(self, open_socket: socket.socket) -> None:
        try:
            data, ancillary, _, name = open_socket.recvmsg(DATAGRAM_BYTES, PKTINFO_SPACE)
        except OSError:
            return
        peer = plain_peer(name)
        answer = self._answer(data, peer)
        if answer is None:
            return
        try:
            open_socket.sendmsg([answer], [reply_source(*entry) for entry in ancillary], 0, name)
        except OSError as error:
            self.note(f"cannot answer {socket_address(*peer)}: {error.strerror}")

    async def _http(self, request: Request) -> Response:
        if getattr(self._module, "LOGS_REQUESTS", True):
            client = f"{socket_address(*request.peer)}{_user_agent(request)}"
            self.note(f"{request.method} {request.target} from {client}")
        if not hasattr(self._module, "http"):
            return Response(404)
        answer: Response = await self._module.http(request, self._context())
        identification = {
            "X-Kubenetlab-Pod": f"{self.pod.identity.namespace}/{self.pod.identity.pod}",
            "X-Kubenetlab-Client": socket_address(*request.peer),
        }
        headers = {**answer.headers, **identification}
        return Response(answer.status, answer.body, answer.content_type, headers)

    def _context(self) -> ProgramContext:
        """Return what the program's functions get to know about the pod and this run."""
        identity = self.pod.identity
        return ProgramContext(
            identity.namespace,
            identity.pod,
            identity.hostname,
            identity.address,
            identity.node,
            container=self.container,
            options=self.options,
            network=self.pod.network,
            log=self.note,
            exit=self._exit,
            clock=_clock,
            now=time.time,
            memory=self._memory,
            is_stopping=self.is_stopping,
        )

    def _exit(self, status: int, after_s: float) -> None:
        self.note(f"Will exit with {status}" + (f" in {after_s:g} s" if after_s else ""))
        # With a delay, so that the response that announces the exit is still sent.
        asyncio.get_running_loop().call_later(max(after_s, 0.01), self._end, status, "")

    async def _main(self) -> None:
        try:
            status = await self._module.main(self._context())
        except Exception as error:
            self._end(2, f"{type(error).__name__}: {error}")
        else:
            self._end(status, self.log[-1].partition(" ")[2] if self.log and status else "")

    def _end(self, status: int, message: str) -> None:
        """End the run and report its exit status."""
        if not self._has_ended:
            self.stop()
            self._outcome = ContainerReport(self.attempt, "exited", status, message, time.time())
            self._on_end(self)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_Serve = Callable[[ContainerInstance, socket.socket], Coroutine[object, object, None]]
_SERVERS: Final[Mapping[str, _Serve]] = {
    "TCP": ContainerInstance._serve_tcp,
    "SCTP": ContainerInstance._serve_sctp,
}


class PodInstance:
    """Built-in programs of one pod, as long as its pause process runs."""

    def __init__(
        self,
        netns: str,
        process: Process,
        pod: ProgramPod,
        home: int,
    ) -> None:
        self.netns = netns
        self.process = process
        """Pause process of the pod."""
        self.identity = pod.identity
        self.namespace = NetnsSocketFactory(process, home)
        self.has_ipv6 = 6 in pod.versions
        self._names = pod.hosts, pod.resolv_conf, pod.versions
        self.runs: dict[str, ContainerInstance] = {}
        self.former_runs: dict[str, ContainerInstance] = {}
        """Previous run of each container, for its log."""

    @cached_property
    def network(self) -> PodSockets:
        """Network access of the programs; created on demand, because most programs only serve."""
        return PodSockets(self.namespace, parse(*self._names))


def _user_agent(request: Request) -> str:
    agent = request.headers.get("user-agent", "")
    return f" ({agent})" if agent else ""


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime())
