"""Stand-ins: what runs in place of containers' own programs, run by run, and the pods whose they are."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from kubenetlab import programs
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.kernel.processes.identity import Process
from kubenetlab.lab.runtime.listeners import PKTINFO_SPACE, from_where, listening
from kubenetlab.lab.runtime.pod_network import DATAGRAM_BYTES, NetnsSocketFactory, PodSockets
from kubenetlab.lab.transport import grpc_health
from kubenetlab.lab.transport.accepting import accept_each
from kubenetlab.lab.transport.frames import Message
from kubenetlab.lab.transport.http import IDLE_TIMEOUT_S, RECEIVE_BYTES, serve
from kubenetlab.lab.transport.tls import HANDSHAKE, TlsConnection, localhost_context, server_context
from kubenetlab.names import socket_address
from kubenetlab.programs.http import Peer, PodIdentity, Request, Response, plain_peer
from kubenetlab.programs.resolver import parse

if TYPE_CHECKING:
    from ssl import SSLContext

LOG_LINES = 1000
NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)
MAX_LINE = 4096
"""Characters of a line that are kept: a request's target may have thousands."""


class ContainerInstance:
    """One run of one container's program."""

    def __init__(
        self,
        pod: PodInstance,
        container: str,
        attempt: int,
        tell: Callable[[ContainerInstance], None],
    ) -> None:
        self.pod = pod
        self.container = container
        self.attempt = attempt
        self.program = ""
        self.options: dict[str, Any] = {}
        self.sockets: dict[ListenPort, socket.socket] = {}
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.log_end = 0
        """How many lines there have been."""
        self._tell = tell
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_over = False
        self.is_stopping = False
        """True after SIGTERM."""
        self._memory: Any = None
        self._tls: SSLContext | None = None
        """What the program serves TLS with, if its arguments say so."""
        self.outcome: Message = {"state": "running"}
        """How it goes, or how it ended: told again to an agent that comes back."""

    def update(self, program: str, options: dict[str, Any], listeners: list[ListenPort]) -> None:
        """Opens what is new, closes what is gone. Raises OSError, with nothing new left open, when a port cannot be had."""
        if "tls" in options and self._tls is None:
            self._tls = server_context(options["tls"])  # read once, as the program would
        opened: dict[ListenPort, socket.socket] = {}
        try:
            for listener in listeners:
                if listener not in self.sockets:
                    opened[listener] = listening(
                        self.pod.namespace, listener, has_ipv6=self.pod.has_ipv6
                    )
        except OSError:
            for new in opened.values():
                new.close()
            raise
        for listener in [known for known in self.sockets if known not in listeners]:
            self._close(self.sockets.pop(listener))
        self.program, self.options = program, options
        self._module = programs.load(program)
        if self._memory is None and hasattr(self._module, "memory"):
            self._memory = self._module.memory()
        loop = asyncio.get_running_loop()
        for listener, opened_socket in opened.items():
            self.sockets[listener] = opened_socket
            if listener.protocol == "UDP":
                loop.add_reader(
                    opened_socket.fileno(), self._datagram, opened_socket
                )  # a socket without a peer's name is slow to describe
            else:
                accept_each(
                    opened_socket,
                    partial(self._accepted, _SERVED[listener.protocol]),
                    self._has_no_room,
                )
            self.note(
                f"Started {'HTTP' if listener.protocol == 'TCP' else listener.protocol} server on port {listener.port}"
            )
        if hasattr(self._module, "configured"):
            self._module.configured(self._me())

    def hear(self, news: Message) -> None:
        """What the lab tells the program; one that does not listen does not mind."""
        if hasattr(self._module, "told") and not self._is_over:
            self._module.told(news, self._me())

    def start_main(self) -> None:
        """Begin what the program does by itself, and its end where one is set."""
        if hasattr(self._module, "main"):
            self._spawn(self._main())
        if (ending := self.options.get("ending")) is not None:
            self._exit(ending["exit_code"], ending["after_s"])

    @property
    def serves_on_s(self) -> float:
        """For how many seconds the program serves on after SIGTERM."""
        return float(self.options.get(programs.DELAY_SHUTDOWN, 0))

    def signal_end(self) -> None:
        """Tell the program what SIGTERM would tell it: it serves on for a while, and ends. Twice is once."""
        if not (self.is_stopping or self._is_over):
            self.is_stopping = True
            self.note(f"Sleeping {self.serves_on_s:g} seconds before terminating...")
            self._exit(0, self.serves_on_s)

    def stop(self) -> None:
        self._is_over = True
        for open_socket in self.sockets.values():
            self._close(open_socket)
        self.sockets.clear()
        for task in self._tasks:
            task.cancel()

    def note(self, line: str) -> None:
        self.log_end += 1
        self.log.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line[:MAX_LINE]}")

    def _close(self, open_socket: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(open_socket.fileno())
        open_socket.close()

    def _accepted(
        self, serve: Callable[[ContainerInstance, socket.socket], Any], connection: socket.socket
    ) -> None:
        self._spawn(serve(self, connection))

    def _has_no_room(self, error: OSError) -> None:
        self.note(f"clients have to wait: {error.strerror}")

    async def _serve_tcp(self, connection: socket.socket) -> None:
        """HTTP/1.1, or for whoever begins like an HTTP/2 client gRPC's health protocol."""
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                begun = await asyncio.get_running_loop().sock_recv(connection, RECEIVE_BYTES)
            if self._tls is not None or (
                begun.startswith(HANDSHAKE) and getattr(self._module, "SERVES_TLS", False)
            ):
                await self._serve_tls(connection, begun)
            elif begun.startswith(grpc_health.PREFACE):
                await grpc_health.serve(connection, begun)
            else:
                await serve(connection, self._http, begun, max_body_bytes=1024 * 1024)
        except (OSError, TimeoutError):
            pass  # the client is gone, or never said anything
        finally:
            connection.close()

    async def _serve_tls(self, connection: socket.socket, begun: bytes) -> None:
        """HTTP/1.1 over TLS; to plain HTTP a server of Go says what is wrong. Source: Go's net/http/server.go."""
        if not begun.startswith(HANDSHAKE):
            await asyncio.get_running_loop().sock_sendall(connection, NOT_TLS)
            return
        tls = TlsConnection(connection, self._tls or localhost_context(), begun, is_server=True)
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
        """What one asks by UDP, message by message over one association."""
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
        answer: bytes | None = (
            self._module.datagram(data, peer, self._me())
            if hasattr(self._module, "datagram")
            else None
        )
        return answer

    def _datagram(self, open_socket: socket.socket) -> None:
        try:
            data, ancillary, _, name = open_socket.recvmsg(DATAGRAM_BYTES, PKTINFO_SPACE)
        except OSError:
            return
        peer = plain_peer(name)
        answer = self._answer(data, peer)
        if answer is None:
            return
        try:
            open_socket.sendmsg([answer], [from_where(*entry) for entry in ancillary], 0, name)
        except OSError as error:
            self.note(f"cannot answer {socket_address(*peer)}: {error.strerror}")

    async def _http(self, request: Request) -> Response:
        if getattr(self._module, "LOGS_REQUESTS", True):
            self.note(
                f"{request.method} {request.target} from {socket_address(*request.peer)}{_agent(request)}"
            )
        if not hasattr(self._module, "http"):
            return Response(404)
        answer: Response = await self._module.http(request, self._me())
        who = {
            "X-Kubenetlab-Pod": f"{self.pod.identity['namespace']}/{self.pod.identity['pod']}",
            "X-Kubenetlab-Client": socket_address(*request.peer),
        }
        return Response(answer.status, answer.body, answer.content_type, {**answer.headers, **who})

    def _me(self) -> PodIdentity:
        return PodIdentity(
            **self.pod.identity,
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
        # Not at once: the answer that announces it shall still be sent.
        asyncio.get_running_loop().call_later(max(after_s, 0.01), self._end, status, "")

    async def _main(self) -> None:
        try:
            status = await self._module.main(self._me())
        except Exception as error:
            self._end(2, f"{type(error).__name__}: {error}")
        else:
            self._end(status, self.log[-1].partition(" ")[2] if self.log and status else "")

    def _end(self, status: int, message: str) -> None:
        if not self._is_over:
            self.stop()
            self.outcome = {
                "state": "exited",
                "exit_code": status,
                "message": message,
                "at": time.time(),
            }
            self._tell(self)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_SERVED: Final = {"TCP": ContainerInstance._serve_tcp, "SCTP": ContainerInstance._serve_sctp}


class PodInstance:
    """One pod's programs, as long as its pause process lives."""

    def __init__(
        self,
        netns: str,
        process: Process,
        identity: dict[str, str],
        versions: list[int],
        hosts: str,
        resolv_conf: str,
        home: int,
    ) -> None:
        self.netns = netns
        self.process = process
        """Its pause process."""
        self.identity = identity
        self.namespace = NetnsSocketFactory(process, home)
        self.has_ipv6 = 6 in versions
        self._names = hosts, resolv_conf, versions
        self.runs: dict[str, ContainerInstance] = {}
        self.former_runs: dict[str, ContainerInstance] = {}
        """Each container's run before the present one, for its log."""

    @cached_property
    def network(self) -> PodSockets:
        """What its programs reach others by: most of them wait to be asked."""
        return PodSockets(self.namespace, parse(*self._names))


def _agent(request: Request) -> str:
    agent = request.headers.get("user-agent", "")
    return f" ({agent})" if agent else ""


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime())
