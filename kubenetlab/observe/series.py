"""Many connections to one address, one after another: the servers that answer, and the client addresses that they see.

Every connection has a source port of its own, so that kube-proxy picks an endpoint for each: a UDP flow with a known
port stays with its endpoint. The built-in servers name themselves; answers of others are counted without a name.
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
from kubenetlab.observe.locations import Location
from kubenetlab.observe.prober import (
    DNS_PORT,
    Outcome,
    ProbeRequest,
    dns_question,
    outcome_of,
    queued_errors,
    run,
)
from kubenetlab.observe.request import HTTP_ERROR

MAX_COUNT: Final = 10_000
"""Maximum length of a series: fewer than the kernel's ephemeral ports, each of which is used once."""
INTERVAL_S: Final = 0.002
"""Time between the beginnings of two connections; less where the series would take longer than `SPREAD_S`."""
SPREAD_S: Final = 1.0
MAX_OPEN: Final = 200
"""Maximum number of concurrent connections."""
MAX_UNNAMED: Final = 3
"""Answers without a server's name before names are no longer requested: each such request takes the whole deadline."""
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
    """Where a series comes from and goes to."""

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
    """Time until the connection was established, or until the reply to a GET, a datagram or a ping."""
    server: str = ""
    """`namespace/name` of a pod, or `ext:name`; empty for a server that does not name itself."""
    hostname: str = ""
    """Hostname of a server that tells nothing more, as over UDP and SCTP."""
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
    """Milliseconds."""

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
    found = [answer.ms for answer in answers if answer.outcome == "answer"]
    return Latency(min(found), median(found), max(found)) if found else None


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
        begun = time.monotonic()
        tasks: list[asyncio.Task[Answer]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                if (early_s := begun + number * interval_s - time.monotonic()) > 0:
                    await asyncio.sleep(early_s)
                await self._capacity.acquire()
                tasks.append(group.create_task(self._one()))
        return [task.result() for task in tasks]

    async def _one(self) -> Answer:
        opened = None
        try:
            opened = self._opened()
            ask = {"TCP": self._by_stream, "UDP": self._by_datagram, "SCTP": self._by_association}[
                self._destination.protocol
            ]
            return await ask(opened)
        except TimeoutError:
            return Answer("silence")
        except OSError as error:
            return Answer(outcome_of(error.errno or errno.EHOSTUNREACH))
        finally:
            if opened is not None:
                opened.close()
            self._capacity.release()

    def _opened(self) -> socket.socket:
        """Open a socket in the source's network namespace, bound to a port that the series has not used."""
        kind, number = _SOCKETS[self._destination.protocol]
        refused: list[socket.socket] = []
        netns = os.open(self._destination.source.netns, os.O_RDONLY | os.O_CLOEXEC)
        home = open_namespace("net")
        try:
            with inside_network(netns, home):
                for _ in range(_PORT_ATTEMPTS):
                    opened = socket.socket(self._echo.family, kind | socket.SOCK_NONBLOCK, number)
                    opened.bind(("", 0))
                    if (port := opened.getsockname()[1]) not in self._used_ports:
                        self._used_ports.add(port)
                        break
                    refused.append(opened)
                else:
                    raise OSError(errno.EADDRNOTAVAIL, "every free source port was used before")
        finally:
            os.close(home)
            for other in refused:
                other.close()
        self._echo.keep_errors(opened)
        if self._destination.protocol != "UDP":
            opened.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER
            )  # leave no TIME_WAIT behind
        return opened

    async def _connect(self, opened: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(opened, (self._destination.address, self._destination.port))
        except PermissionError:  # a rule in the source's own namespace has dropped the SYN
            raise TimeoutError from None
        if code := next((code for code, _ in queued_errors(opened, self._echo)), 0):
            raise OSError(code, os.strerror(code))

    async def _by_stream(self, opened: socket.socket) -> Answer:
        begun = time.monotonic()
        async with asyncio.timeout(self._deadline_s):
            await self._connect(opened)
        if self._destination.path is not None:
            return await self._get(opened, begun, self._destination.path)
        ms = _ms_since(begun)
        if self._unnamed >= MAX_UNNAMED:
            return Answer("answer", ms)
        try:
            found = await self._get(opened, begun, "/clientip")
        except (OSError, TimeoutError):
            found = Answer("answer")
        self._unnamed += not found.server
        return Answer("answer", ms, found.server, client=found.client)

    async def _get(self, opened: socket.socket, begun: float, path: str) -> Answer:
        """Send a GET and read the head of its reply. Raises OSError for a reply that is not HTTP."""
        loop = asyncio.get_running_loop()
        host = socket_address(self._destination.address, self._destination.port)
        async with asyncio.timeout(self._deadline_s):
            await loop.sock_sendall(
                opened,
                f"GET /{path.removeprefix('/')} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode(),
            )
            received = b""
            while b"\r\n\r\n" not in received and len(received) < _HEAD_BYTES:
                if not (data := await loop.sock_recv(opened, _RECEIVE_BYTES)):
                    break
                received += data
        return parse_head(received, _ms_since(begun))

    async def _by_datagram(self, opened: socket.socket) -> Answer:
        begun = time.monotonic()
        is_dns = self._destination.port == DNS_PORT
        async with asyncio.timeout(self._deadline_s):
            await self._connect(opened)
            reply = await self._exchange(opened, dns_question() if is_dns else b"hostname")
        ms = _ms_since(begun)
        return Answer("answer", ms) if is_dns else await self._named(opened, ms, reply)

    async def _by_association(self, opened: socket.socket) -> Answer:
        begun = time.monotonic()
        async with asyncio.timeout(self._deadline_s):
            await self._connect(opened)
        return await self._named(opened, _ms_since(begun))

    async def _named(self, opened: socket.socket, ms: float, hostname: str = "") -> Answer:
        """Return an answer after `ms`, with the server's hostname and the client that it sees, where it tells them."""
        if self._unnamed >= MAX_UNNAMED:
            return Answer("answer", ms)
        client = ""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                hostname = hostname or await self._exchange(opened, b"hostname")
                client = _address_of(await self._exchange(opened, b"clientip"))
        self._unnamed += not client
        return Answer("answer", ms, hostname=hostname if client else "", client=client)

    async def _exchange(self, opened: socket.socket, message: bytes) -> str:
        """Return the reply to one message. Raises OSError."""
        loop = asyncio.get_running_loop()
        with suppress(
            PermissionError
        ):  # dropped by a rule in the source's namespace; a refusal is received below
            await loop.sock_sendall(opened, message)
        return (await loop.sock_recv(opened, _RECEIVE_BYTES)).decode(errors="replace").strip()


def parse_head(received: bytes, ms: float) -> Answer:
    """Return status, server and client from the head of an HTTP reply. Raises OSError for a reply that is not HTTP."""
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


def _ms_since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000
