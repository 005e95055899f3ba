"""Series of connections to one address: the servers that answer, and the client addresses they see.

Every connection has its own source port, so that kube-proxy selects an endpoint for each: a UDP
flow with a known port stays with its endpoint. Built-in servers name themselves; the answers of
other servers are counted without a name.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Final

from msgspec import Struct

from kubenetlab.kernel.ping_sockets import echo_of
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.names import socket_address
from kubenetlab.observe.probe_sockets import (
    DNS_PORT,
    Outcome,
    dns_query,
    outcome_of,
    queued_errors,
)
from kubenetlab.observe.prober import ProbeRequest, run
from kubenetlab.observe.request import HTTP_ERROR
from kubenetlab.observe.targets.locations import Location

INTERVAL_S: Final = 0.002
"""Time between the starts of two connections, in seconds.

It is shorter when the series would take longer than `SPREAD_S`.
"""
SPREAD_S: Final = 1.0
"""Maximum time in which the connections of a series are started, in seconds."""
MAX_OPEN: Final = 200
"""Maximum number of concurrent connections."""
MAX_UNNAMED: Final = 3
"""Number of answers without a server name before names are no longer requested.

Each such request takes the whole deadline.
"""
_PORT_ATTEMPTS: Final = 200
_HEAD_BYTES: Final = 16 * 1024
_RECEIVE_BYTES: Final = 4096
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_SOCKETS: Final = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
"""Protocol → socket type and protocol number."""


class SeriesTarget(Struct, frozen=True):
    """Source and destination of a series."""

    source: Location
    protocol: str
    address: str
    port: int = 0
    path: str | None = None
    """Path of a GET; None for connections, datagrams and pings."""


class Answer(Struct, frozen=True):
    """Result of one connection."""

    outcome: Outcome
    ms: float = 0.0
    """Time until the connection was established, or until the reply to a GET, datagram or ping."""
    server: str = ""
    """`namespace/name` of a pod, or `ext:name`; empty for a server that does not name itself."""
    hostname: str = ""
    """Hostname of a server that reports nothing else, as over UDP and SCTP."""
    client: str = ""
    """Address of the client as the server sees it."""
    status: int = 0
    """HTTP status of a GET."""

    @property
    def failure(self) -> str:
        """Kind of failure; empty for an answer without an HTTP error."""
        if self.outcome != "answer":
            return self.outcome
        return f"HTTP {self.status}" if self.status >= HTTP_ERROR else ""


class Latency(Struct, frozen=True):
    """Latency of answers, in milliseconds."""

    min: float
    median: float
    max: float


def run_series(destination: SeriesTarget, count: int, deadline_s: float) -> list[Answer]:
    """Send `count` requests. A connection without an answer after `deadline_s` is `silence`."""
    if destination.protocol == "ICMP":
        probes = [ProbeRequest(destination.source, "ICMP", destination.address)] * count
        return [Answer(result.outcome, result.ms) for result in run(probes, deadline_s=deadline_s)]
    return asyncio.run(_Series(destination, deadline_s).run(count))


def latency(answers: Sequence[Answer]) -> Latency | None:
    """Return the latency of all answers; None without any."""
    times = [answer.ms for answer in answers if answer.outcome == "answer"]
    return Latency(min(times), median(times), max(times)) if times else None


def failures(answers: Sequence[Answer]) -> dict[str, int]:
    """Return kind of failure → number, the most frequent first."""
    return dict(Counter(answer.failure for answer in answers if answer.failure).most_common())


class _Series:
    """Connections to one address."""

    def __init__(self, destination: SeriesTarget, deadline_s: float) -> None:
        self._destination = destination
        self._deadline_s = deadline_s
        self._echo = echo_of(destination.address)
        self._used_ports: set[int] = set()
        self._unnamed = 0
        self._capacity = asyncio.Semaphore(MAX_OPEN)

    async def run(self, count: int) -> list[Answer]:
        interval_s = min(INTERVAL_S, SPREAD_S / count)
        start = time.monotonic()
        tasks: list[asyncio.Task[Answer]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                if (delay_s := start + number * interval_s - time.monotonic()) > 0:
                    await asyncio.sleep(delay_s)
                await self._capacity.acquire()
                tasks.append(group.create_task(self._connect_once()))
        return [task.result() for task in tasks]

    async def _connect_once(self) -> Answer:
        """Return the result of one connection, and release its slot."""
        connection = None
        try:
            connection = self._open()
            exchange = {
                "TCP": self._by_stream,
                "UDP": self._by_datagram,
                "SCTP": self._by_association,
            }[self._destination.protocol]
            return await exchange(connection)
        except TimeoutError:
            return Answer("silence")
        except OSError as error:
            return Answer(outcome_of(error.errno or errno.EHOSTUNREACH))
        finally:
            if connection is not None:
                connection.close()
            self._capacity.release()

    def _open(self) -> socket.socket:
        """Open a socket in the source's namespace, bound to a port that the series has not used."""
        kind, number = _SOCKETS[self._destination.protocol]
        repeated: list[socket.socket] = []
        netns_fd = os.open(self._destination.source.netns_path, os.O_RDONLY | os.O_CLOEXEC)
        own_netns = open_namespace("net")
        try:
            with inside_network(netns_fd, own_netns):
                for _ in range(_PORT_ATTEMPTS):
                    connection = socket.socket(
                        self._echo.family, kind | socket.SOCK_NONBLOCK, number
                    )
                    connection.bind(("", 0))
                    if (port := connection.getsockname()[1]) not in self._used_ports:
                        self._used_ports.add(port)
                        break
                    repeated.append(connection)
                else:
                    raise OSError(errno.EADDRNOTAVAIL, "every free source port was used before")
        finally:
            os.close(own_netns)
            for duplicate in repeated:
                duplicate.close()
        self._echo.keep_errors(connection)
        if self._destination.protocol != "UDP":
            # Close with a reset, which leaves no socket in TIME_WAIT.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return connection

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, (self._destination.address, self._destination.port))
        except PermissionError:  # a rule in the source's own namespace has dropped the SYN
            raise TimeoutError from None
        if code := next((code for code, _ in queued_errors(connection, self._echo)), 0):
            raise OSError(code, os.strerror(code))

    async def _by_stream(self, connection: socket.socket) -> Answer:
        start = time.monotonic()
        async with asyncio.timeout(self._deadline_s):
            await self._connect(connection)
        if self._destination.path is not None:
            return await self._get(connection, start, self._destination.path)
        ms = _ms_since(start)
        if self._unnamed >= MAX_UNNAMED:
            return Answer("answer", ms)
        try:
            reply = await self._get(connection, start, "/clientip")
        except (OSError, TimeoutError):
            reply = Answer("answer")
        self._unnamed += not reply.server
        return Answer("answer", ms, reply.server, client=reply.client)

    async def _get(self, connection: socket.socket, start: float, path: str) -> Answer:
        """Send a GET and read the head of its reply. Raises OSError if it is not HTTP."""
        loop = asyncio.get_running_loop()
        host = socket_address(self._destination.address, self._destination.port)
        async with asyncio.timeout(self._deadline_s):
            request = f"GET /{path.removeprefix('/')} HTTP/1.1\r\nHost: {host}\r\n"
            await loop.sock_sendall(connection, f"{request}Connection: close\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received and len(received) < _HEAD_BYTES:
                if not (data := await loop.sock_recv(connection, _RECEIVE_BYTES)):
                    break
                received += data
        return parse_head(received, _ms_since(start))

    async def _by_datagram(self, connection: socket.socket) -> Answer:
        start = time.monotonic()
        is_dns = self._destination.port == DNS_PORT
        async with asyncio.timeout(self._deadline_s):
            await self._connect(connection)
            reply = await self._exchange(connection, dns_query() if is_dns else b"hostname")
        ms = _ms_since(start)
        return Answer("answer", ms) if is_dns else await self._named(connection, ms, reply)

    async def _by_association(self, connection: socket.socket) -> Answer:
        start = time.monotonic()
        async with asyncio.timeout(self._deadline_s):
            await self._connect(connection)
        return await self._named(connection, _ms_since(start))

    async def _named(self, connection: socket.socket, ms: float, hostname: str = "") -> Answer:
        """Return an answer after `ms` with the names that the server reports.

        These are its hostname and the client address that it sees.
        """
        if self._unnamed >= MAX_UNNAMED:
            return Answer("answer", ms)
        client = ""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                hostname = hostname or await self._exchange(connection, b"hostname")
                client = _address_of(await self._exchange(connection, b"clientip"))
        self._unnamed += not client
        return Answer("answer", ms, hostname=hostname if client else "", client=client)

    async def _exchange(self, connection: socket.socket, message: bytes) -> str:
        """Return the reply to one message. Raises OSError."""
        loop = asyncio.get_running_loop()
        # PermissionError: a rule in the source's namespace dropped the packet. If it sent a
        # rejection, sock_recv() reports it.
        with suppress(PermissionError):
            await loop.sock_sendall(connection, message)
        return (await loop.sock_recv(connection, _RECEIVE_BYTES)).decode(errors="replace").strip()


def parse_head(received: bytes, ms: float) -> Answer:
    """Return status, server and client from the head of an HTTP reply.

    Raises OSError for a reply that is not HTTP.
    """
    first, *lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/") or not rest[:3].isdigit():
        raise OSError(errno.EPROTO, "the reply is not HTTP")
    headers: Mapping[str, str] = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    namespace, _, name = headers.get("x-kubenetlab-pod", "").partition("/")
    server = f"{namespace}/{name}" if namespace else f"ext:{name}" if name else ""
    return Answer(
        "answer",
        ms,
        server,
        client=_address_of(headers.get("x-kubenetlab-client", "")),
        status=int(rest[:3]),
    )


def _address_of(text: str) -> str:
    """Return the address of `10.244.1.2:54658` or `[fd00::1]:80`; empty for any other text."""
    address, colon, port = text.strip().rpartition(":")
    return address.strip("[]") if colon and port.isdigit() else ""


def _ms_since(start: float) -> float:
    return (time.monotonic() - start) * 1000
