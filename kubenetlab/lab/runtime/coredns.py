"""CoreDNS: a process in its pod that watches the lab's API and answers DNS queries.

While the agent is down, it answers from its last view. Ports: 53 UDP and TCP, /health on 8080,
/ready on 8181, /metrics on 9153.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar, cast

from kubenetlab.api.config import ClusterConfig, Network
from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.manifests.objects import decode_object
from kubenetlab.api.meta import Resource
from kubenetlab.datapath.network.uplink import inside
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.log import log
from kubenetlab.lab.runtime import dns_forwarder
from kubenetlab.lab.transport import dns_stream
from kubenetlab.lab.transport.accepting import accept_each
from kubenetlab.lab.transport.exchange import Exchange
from kubenetlab.lab.transport.http import serve
from kubenetlab.names import socket_address
from kubenetlab.programs.coredns import DNS_PORT, HEALTH_PORT, METRICS_PORT, READY_PORT
from kubenetlab.programs.dns.messages import (
    MAX_TCP_BYTES,
    answer,
    is_foreign,
    parse_question,
    servfail,
    udp_limit,
)
from kubenetlab.programs.dns.zone import Zone
from kubenetlab.programs.support.http import Request, Response, SocketName, plain_peer, text

CACHE_SIZE = 10_000
"""Maximum number of cached responses."""
DISABLE_IPV6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
MAX_MESSAGE_BYTES = 64 * 1024
RETRY_S = 0.05
"""Pause before a watch that broke is started again, in seconds."""
TCP_TIMEOUT_S = 10.0
"""Time allowed for a TCP client to send a query, and to accept a response, in seconds."""
R = TypeVar("R", bound=Resource)

_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_FLAGS = ((0x8000, "qr"), (0x0400, "aa"), (0x0200, "tc"), (0x0100, "rd"), (0x0080, "ra"))
"""Flags in the second word of a message (RFC 1035 §4.1.1)."""
_WATCHED: tuple[type[Resource], ...] = (Namespace, Service, EndpointSlice, ClusterConfig)

Handle = Callable[[socket.socket], Coroutine[object, object, None]]
"""Serve a connection."""
Key = tuple[str, str]
"""Namespace and name of an object."""


class CoreDNS:
    """DNS server with its view of the store."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._objects: dict[type[Resource], dict[Key, Resource]] = {kind: {} for kind in _WATCHED}
        self._synced: set[type[Resource]] = set()
        self._slices: dict[Key, dict[Key, EndpointSlice]] = {}
        """EndpointSlices by key, by the key of their Service."""
        self._zone: Zone | None = None
        self._forwards = False
        """True if the lab has an uplink: foreign names are then forwarded."""
        self._own_ranges: list[Network] = []
        """Ranges of the lab: a name server there would forward queries to this one in a loop."""
        self._cache: dict[bytes, tuple[bytes, str]] = {}
        """Responses and their log lines by query, all without message id; cleared by each change.

        The key of a query over TCP begins with `t`.
        """
        self._queries = 0
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def is_ready(self) -> bool:
        """True if the initial objects of all watched kinds have been received."""
        return len(self._synced) == len(_WATCHED)

    async def run(self) -> None:
        """Serve queries and watch the API; never return."""
        loop = asyncio.get_running_loop()
        udp = _bound(socket.SOCK_DGRAM, DNS_PORT)
        loop.add_reader(udp, self._receive_udp, udp)
        self._listen(DNS_PORT, self._tcp)
        for port, handler in (
            (HEALTH_PORT, self._health),
            (READY_PORT, self._ready),
            (METRICS_PORT, self._metrics),
        ):
            self._listen(port, partial(serve, handler=handler))
        await asyncio.gather(*(self._watch(kind) for kind in _WATCHED))

    def resolve(self, data: bytes, peer: SocketName, *, is_udp: bool = True) -> bytes | None:
        """Return the encoded response to an encoded query, from the cache if possible.

        Return None while the initial objects are missing, and for messages that are not queries.
        """
        start = time.perf_counter()
        self._queries += 1
        if self._zone is None:
            return None
        key = data[2:] if is_udp else b"t" + data[2:]
        cached = self._cache.get(key)
        if cached is None:
            response = answer(self._zone, data, is_udp=is_udp)
            if response is None:
                return None
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            line = logged(data, response, is_udp=is_udp)
            cached = self._cache[key] = (response[2:], line)
        response_without_id, line = cached
        self._log(data, line, peer, start)
        return data[:2] + response_without_id

    def _log(self, data: bytes, line: str, peer: SocketName, start: float) -> None:
        """Write a query to the log, with the time since `start`."""
        client, number = socket_address(*plain_peer(peer)), int.from_bytes(data[:2])
        log_query(f"[INFO] {client} - {number} {line} {time.perf_counter() - start:.6f}s")

    def _receive_udp(self, udp: socket.socket) -> None:
        for _ in range(64):
            try:
                data, peer = udp.recvfrom(MAX_MESSAGE_BYTES)
            except OSError:
                return
            if self._forwards and self._zone is not None and is_foreign(self._zone, data):
                self._spawn(self._forward_udp(udp, data, peer))
            elif (response := self.resolve(data, peer)) is not None:
                with suppress(OSError):
                    udp.sendto(response, peer)

    async def _forward_udp(self, udp: socket.socket, data: bytes, peer: SocketName) -> None:
        response = await self._forward(data, peer, is_udp=True)
        with suppress(OSError):
            udp.sendto(response, peer)

    async def _forward(self, data: bytes, peer: SocketName, *, is_udp: bool) -> bytes:
        """Return the response of the machine's name servers; SERVFAIL if none responds."""
        start = time.perf_counter()
        self._queries += 1
        response = await dns_forwarder.forward(
            data, is_udp=is_udp, but_for=self._own_ranges
        ) or servfail(data)
        self._log(data, logged(data, response, is_udp=is_udp), peer, start)
        return response

    async def _tcp(self, connection: socket.socket) -> None:
        """Serve queries over TCP until the client closes the connection or stops reading."""
        loop = asyncio.get_running_loop()
        buffer = b""
        connection.setblocking(False)
        try:
            peer = connection.getpeername()
            while True:
                async with asyncio.timeout(TCP_TIMEOUT_S):
                    received = await loop.sock_recv(connection, MAX_MESSAGE_BYTES)
                if not received:
                    return
                buffer += received
                while True:
                    data, buffer = dns_stream.split(buffer)
                    if data is None:
                        break
                    if self._forwards and self._zone is not None and is_foreign(self._zone, data):
                        response: bytes | None = await self._forward(data, peer, is_udp=False)
                    else:
                        response = self.resolve(data, peer, is_udp=False)
                    if response is not None:
                        # A client may send queries and never read the responses.
                        async with asyncio.timeout(TCP_TIMEOUT_S):
                            await loop.sock_sendall(connection, dns_stream.frame(response))
        except (OSError, TimeoutError):
            pass
        finally:
            connection.close()

    def _listen(self, port: int, handle: Handle) -> None:
        listener = _bound(socket.SOCK_STREAM, port)
        listener.listen(128)
        accept_each(
            listener,
            lambda connection: self._spawn(handle(connection)),
            lambda error: log(f"clients have to wait: {error.strerror}"),
        )

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _health(self, request: Request) -> Response:
        return text("OK")

    async def _ready(self, request: Request) -> Response:
        return text("OK") if self.is_ready else text("kubernetes", 503)

    async def _metrics(self, request: Request) -> Response:
        return text(
            "# TYPE coredns_dns_requests_total counter\n"
            f"coredns_dns_requests_total {self._queries}\n"
        )

    async def _watch(self, kind: type[Resource]) -> None:
        """Watch one kind, also across restarts of the agent; never return."""
        path = (
            f"/api/{kind.api_version}"
            if "/" not in kind.api_version
            else f"/apis/{kind.api_version}"
        )
        while True:
            try:
                await self._follow(kind, f"{path}/{kind.plural}?watch=true")
            except OSError:
                pass
            await asyncio.sleep(RETRY_S)

    async def _follow(self, kind: type[Resource], target: str) -> None:
        """Follow one watch until it breaks; its initial objects replace the former view."""
        loop = asyncio.get_running_loop()
        exchange = Exchange("GET", target, {})
        initial: dict[Key, Resource] = {}
        is_initial, buffer = True, b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            await loop.sock_connect(connection, self._api)
            await loop.sock_sendall(connection, exchange.request_bytes)
            while not exchange.is_complete:
                buffer += exchange.feed(await loop.sock_recv(connection, 256 * 1024))
                *lines, buffer = buffer.split(b"\n")
                changed: list[Resource] = []
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "BOOKMARK":
                        self._objects[kind], is_initial = initial, False
                        self._synced.add(kind)
                        self._zone = None
                        continue
                    obj = decode_object(event["object"], kind).value
                    if obj is None:
                        continue
                    known = initial if is_initial else self._objects[kind]
                    former = known.pop(obj.key, None)
                    changed += [obj] if former is None else [former, obj]
                    if event["type"] != "DELETED":
                        known[obj.key] = obj
                if lines and self.is_ready and not is_initial:
                    self._update(changed)

    def _by_key(self, kind: type[R]) -> dict[Key, R]:
        """Return the objects of a watched kind."""
        return cast("dict[Key, R]", self._objects[kind])  # `_follow` decodes them as this kind

    def _update(self, changed: Iterable[Resource]) -> None:
        """Update the zone for changed objects.

        Changes of Services and EndpointSlices update only the records of these Services; any other
        change rebuilds the zone.

        changed: former and new state of each changed object.
        """
        services, slices = self._by_key(Service), self._by_key(EndpointSlice)
        if self._zone is None or not all(
            isinstance(obj, Service | EndpointSlice) for obj in changed
        ):
            self._slices = {}
            for endpoint_slice in slices.values():
                of_service = self._slices.setdefault(_service_of(endpoint_slice), {})
                of_service[endpoint_slice.key] = endpoint_slice
            self._rebuild()
        for obj in changed:
            if isinstance(obj, EndpointSlice):
                of_service = self._slices.setdefault(_service_of(obj), {})
                of_service.pop(obj.key, None)
                current = slices.get(obj.key)
                if current is not None and _service_of(current) == _service_of(obj):
                    of_service[obj.key] = current
                if not of_service:
                    del self._slices[_service_of(obj)]
        assert self._zone is not None
        for key in dict.fromkeys(
            _service_of(obj) if isinstance(obj, EndpointSlice) else obj.key for obj in changed
        ):
            self._zone.change(key, services.get(key), self._slices.get(key, {}).values())
        self._zone.serial = int(time.time())
        self._cache = {}

    def _rebuild(self) -> None:
        """Build the zone from all objects."""
        config = next(iter(self._by_key(ClusterConfig).values()), ClusterConfig())
        hosts = {host.name: host.addresses(config.networking.versions) for host in config.external}
        self._zone = Zone(
            config.networking.dns_domain,
            self._by_key(Namespace).values(),
            self._by_key(Service).values(),
            self._by_key(EndpointSlice).values(),
            hosts,
            _own_addresses(),
        )
        self._forwards = config.uplink
        self._own_ranges = [
            ip_network(text) for version in (4, 6) for text in inside(config, version)
        ]
        self._cache = {}


def _service_of(endpoint_slice: EndpointSlice) -> Key:
    return endpoint_slice.namespace, endpoint_slice.service_name


def _own_addresses() -> list[str]:
    """Return the source addresses that the kernel selects for packets of this pod, per family."""
    addresses = []
    for family, remote in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect((remote, DNS_PORT))  # sends no packet
            addresses.append(datagrams.getsockname()[0])
    return addresses


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    """Bind a socket to a port of all addresses; for both families if the namespace has IPv6."""
    has_ipv6 = Path(DISABLE_IPV6).exists() and Path(DISABLE_IPV6).read_text().strip() == "0"
    bound = socket.socket(
        socket.AF_INET6 if has_ipv6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK
    )
    if has_ipv6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
    bound.bind(("", port))
    return bound


def log_query(line: str) -> None:
    """Write a line to standard output, which is a pipe to init.

    Errors are ignored: a query is answered even if it cannot be logged.
    """
    with suppress(OSError):
        os.write(1, f"{line}\n".encode())


def logged(query: bytes, response: bytes, *, is_udp: bool) -> str:
    """Return the part of a line of CoreDNS' plugin `log` between the client and the duration.

    Example: `"A IN web.default.svc.cluster.local. udp 55 false 512" NOERROR qr,aa,rd,ra 108`. The
    three values after the transport are the size of the query, its flag DO, and the maximum size of
    responses that the client accepts. The last value is the size of the response.
    """
    parsed = parse_question(query)
    flags = int.from_bytes(response[2:4])
    names = ",".join(name for bit, name in _FLAGS if flags & bit)
    transport, limit = ("udp", udp_limit(parsed.edns)) if is_udp else ("tcp", MAX_TCP_BYTES)
    wants_dnssec = str(parsed.edns is not None and parsed.edns.wants_dnssec).lower()
    head = f'"{parsed.type} IN {parsed.name} {transport} {len(query)} {wants_dnssec} {limit}"'
    return f"{head} {_RCODES.get(flags & 15, str(flags & 15))} {names} {len(response)}"


def main(context: LabContext) -> None:
    """Run CoreDNS in its pod; never return."""
    import dnslib  # noqa: F401  (imported now, so that the first query is not delayed)

    os.chdir("/")
    with suppress(OSError):
        print(".:53\nCoreDNS, built into kubenetlab: one line for each question", flush=True)
    asyncio.run(CoreDNS(context.path(rundir.INNER_API_SOCKET)).run())
