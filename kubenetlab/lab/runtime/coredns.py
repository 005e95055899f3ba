"""CoreDNS: a process inside its pod. It watches the lab's API as a client and answers from what it has seen.

When the agent dies it goes on with its last view and watches the next agent. Ports: 53 UDP and TCP, /health on 8080, /ready on 8181,
/metrics on 9153.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from kubenetlab.api.config import ClusterConfig, Network
from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.load import decode_object
from kubenetlab.api.meta import Resource
from kubenetlab.datapath.uplink import inside
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
from kubenetlab.programs.dns import MAX_TCP_BYTES, answer, failed, is_foreign, question, udp_limit
from kubenetlab.programs.http import Request, Response, plain_peer, text
from kubenetlab.programs.zone import Zone

CACHE_SIZE = 10_000
DISABLE_IPV6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
MAX_MESSAGE_BYTES = 64 * 1024
RETRY_S = 0.05
TCP_TIMEOUT_S = 10.0
_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_FLAGS = ((0x8000, "qr"), (0x0400, "aa"), (0x0200, "tc"), (0x0100, "rd"), (0x0080, "ra"))
"""Bits of a message's second word (RFC 1035 §4.1.1)."""
_WATCHED: tuple[type[Resource], ...] = (Namespace, Service, EndpointSlice, ClusterConfig)

Key = tuple[str, str]


class CoreDNS:
    """One server: what it has seen, and the sockets it answers on."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._seen: dict[type[Resource], dict[Key, Resource]] = {kind: {} for kind in _WATCHED}
        self._synced: set[type[Resource]] = set()
        self._behind: dict[Key, dict[Key, EndpointSlice]] = {}
        """Namespace and name of a Service → its slices by theirs."""
        self._zone: Zone | None = None
        self._forwards = False
        """True where the lab has an uplink: others may know what is not known here."""
        self._own: list[Network] = []
        """The lab's ranges: a name server there would be one that asks us, without end."""
        self._cache: dict[bytes, tuple[bytes, str]] = {}
        """Question as it came, without its number → answer without its number, words for the log; thrown away at every change."""
        self._queries = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_ready(self) -> bool:
        return len(self._synced) == len(_WATCHED)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        udp = _bound(socket.SOCK_DGRAM, DNS_PORT)
        loop.add_reader(udp, self._datagrams, udp)
        self._listen(DNS_PORT, self._tcp)
        for port, handler in (
            (HEALTH_PORT, self._health),
            (READY_PORT, self._ready),
            (METRICS_PORT, self._metrics),
        ):
            self._listen(port, lambda connection, handler=handler: serve(connection, handler))
        await asyncio.gather(*(self._watch(kind) for kind in _WATCHED))

    def resolve(self, data: bytes, peer: tuple[Any, ...], *, is_udp: bool = True) -> bytes | None:
        """The encoded answer to an encoded question, from the cache where it was asked before."""
        begun = time.perf_counter()
        self._queries += 1
        if self._zone is None:
            return None
        key = data[2:] if is_udp else b"t" + data[2:]
        known = self._cache.get(key)
        if known is None:
            made = answer(self._zone, data, is_udp=is_udp)
            if made is None:
                return None
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            known = self._cache[key] = (made[2:], logged(data, made, is_udp=is_udp))
        rest, line = known
        self._tell(data, line, peer, begun)
        return data[:2] + rest

    def _tell(self, data: bytes, line: str, peer: tuple[Any, ...], begun: float) -> None:
        log_query(
            f"[INFO] {socket_address(*plain_peer(peer))} - {int.from_bytes(data[:2])} {line} {time.perf_counter() - begun:.6f}s"
        )

    def _datagrams(self, udp: socket.socket) -> None:
        for _ in range(64):
            try:
                data, peer = udp.recvfrom(MAX_MESSAGE_BYTES)
            except OSError:
                return
            if self._forwards and self._zone is not None and is_foreign(self._zone, data):
                self._begin(self._send_on(udp, data, peer))
            elif (reply := self.resolve(data, peer)) is not None:
                with suppress(OSError):
                    udp.sendto(reply, peer)

    async def _send_on(self, udp: socket.socket, data: bytes, peer: tuple[Any, ...]) -> None:
        reply = await self._forwarded(data, peer, is_udp=True)
        with suppress(OSError):
            udp.sendto(reply, peer)

    async def _forwarded(self, data: bytes, peer: tuple[Any, ...], *, is_udp: bool) -> bytes:
        """What the machine's name servers say."""
        begun = time.perf_counter()
        self._queries += 1
        reply = await dns_forwarder.asked(data, is_udp=is_udp, but_for=self._own) or failed(data)
        self._tell(data, logged(data, reply, is_udp=is_udp), peer, begun)
        return reply

    async def _tcp(self, connection: socket.socket) -> None:
        """Messages behind their lengths (RFC 1035 §4.2.2), until the client is done."""
        loop = asyncio.get_running_loop()
        buffer = b""
        connection.setblocking(False)
        try:
            peer = connection.getpeername()
            while True:
                async with asyncio.timeout(TCP_TIMEOUT_S):
                    fresh = await loop.sock_recv(connection, MAX_MESSAGE_BYTES)
                if not fresh:
                    return
                buffer += fresh
                while True:
                    data, buffer = dns_stream.split(buffer)
                    if data is None:
                        break
                    if self._forwards and self._zone is not None and is_foreign(self._zone, data):
                        reply: bytes | None = await self._forwarded(data, peer, is_udp=False)
                    else:
                        reply = self.resolve(data, peer, is_udp=False)
                    if reply is not None:
                        async with asyncio.timeout(
                            TCP_TIMEOUT_S
                        ):  # a client may ask and never read
                            await loop.sock_sendall(connection, dns_stream.framed(reply))
        except (OSError, TimeoutError):
            pass
        finally:
            connection.close()

    def _listen(self, port: int, handle: Any) -> None:
        listener = _bound(socket.SOCK_STREAM, port)
        listener.listen(128)
        accept_each(
            listener,
            lambda connection: self._begin(handle(connection)),
            lambda error: log(f"clients have to wait: {error.strerror}"),
        )

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _health(self, request: Request) -> Response:
        return text("OK")

    async def _ready(self, request: Request) -> Response:
        return text("OK") if self.is_ready else text("kubernetes", 503)

    async def _metrics(self, request: Request) -> Response:
        return text(
            f"# TYPE coredns_dns_requests_total counter\ncoredns_dns_requests_total {self._queries}\n"
        )

    async def _watch(self, kind: type[Resource]) -> None:
        """Follows one kind for ever, through all agents."""
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
        """One watch, until it breaks. What it brings first takes the place of what was known before."""
        loop = asyncio.get_running_loop()
        exchange = Exchange("GET", target, {})
        fresh: dict[Key, Resource] = {}
        is_initial, buffer = True, b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            await loop.sock_connect(connection, self._api)
            await loop.sock_sendall(connection, exchange.request_bytes)
            while not exchange.is_complete:
                buffer += exchange.feed(await loop.sock_recv(connection, 256 * 1024))
                *lines, buffer = buffer.split(b"\n")
                touched: list[Resource] = []
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "BOOKMARK":
                        self._seen[kind], is_initial = fresh, False
                        self._synced.add(kind)
                        self._zone = None
                        continue
                    obj = decode_object(event["object"], kind).value
                    if obj is None:
                        continue
                    known = fresh if is_initial else self._seen[kind]
                    touched += [one for one in (known.pop(obj.key, None), obj) if one is not None]
                    if event["type"] != "DELETED":
                        known[obj.key] = obj
                if lines and self.is_ready and not is_initial:
                    self._take_in(touched)

    def _take_in(self, touched: Iterable[Resource]) -> None:
        """What is said of names follows what was seen; of Services that have not changed nothing is computed."""
        services: dict[Key, Service] = self._seen[Service]  # type: ignore[assignment]
        slices: dict[Key, EndpointSlice] = self._seen[EndpointSlice]  # type: ignore[assignment]
        if self._zone is None or not all(
            isinstance(obj, Service | EndpointSlice) for obj in touched
        ):
            self._behind = {}
            for piece in slices.values():
                self._behind.setdefault(_service_of(piece), {})[piece.key] = piece
            self._rebuild()
        for obj in touched:
            if isinstance(obj, EndpointSlice):
                behind = self._behind.setdefault(_service_of(obj), {})
                behind.pop(obj.key, None)
                now = slices.get(obj.key)
                if now is not None and _service_of(now) == _service_of(obj):
                    behind[obj.key] = now
                if not behind:
                    del self._behind[_service_of(obj)]
        assert self._zone is not None
        for key in dict.fromkeys(
            _service_of(obj) if isinstance(obj, EndpointSlice) else obj.key for obj in touched
        ):
            self._zone.change(key, services.get(key), self._behind.get(key, {}).values())
        self._zone.serial = int(time.time())
        self._cache = {}

    def _rebuild(self) -> None:
        config = next(iter(self._seen[ClusterConfig].values()), ClusterConfig())
        assert isinstance(config, ClusterConfig)
        hosts = {host.name: host.addresses(config.networking.versions) for host in config.external}
        namespaces, services, slices = (
            list(self._seen[kind].values()) for kind in (Namespace, Service, EndpointSlice)
        )
        domain = config.networking.dns_domain
        self._zone = Zone(domain, namespaces, services, slices, hosts, _own_addresses())  # type: ignore[arg-type]
        self._forwards = config.uplink
        self._own = [ip_network(text) for version in (4, 6) for text in inside(config, version)]
        self._cache = {}


def _service_of(piece: EndpointSlice) -> Key:
    return piece.namespace, piece.service_name


def _own_addresses() -> list[str]:
    """Return this pod's addresses: those from which the kernel would send out of it, one per family."""
    found = []
    for family, elsewhere in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as prober:
            prober.connect((elsewhere, DNS_PORT))  # a datagram socket sends nothing for this
            found.append(prober.getsockname()[0])
    return found


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket at a port of all addresses, of both families where this namespace has IPv6."""
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
    """Write a line for a question to standard output, a pipe to init, which bounds the log; a lost line is no reason not to answer."""
    with suppress(OSError):
        os.write(1, f"{line}\n".encode())


def logged(asked: bytes, reply: bytes, *, is_udp: bool) -> str:
    """Return the part of a line of CoreDNS' plugin `log` between the client and the time taken.

    Example: `"A IN web.default.svc.cluster.local. udp 55 false 512" NOERROR qr,aa,rd,ra 108`. The three values after the
    transport are the question's size, its flag DO and the largest answer that the client accepts. The last value is the
    answer's size.
    """
    found = question(asked)
    flags = int.from_bytes(reply[2:4])
    names = ",".join(name for bit, name in _FLAGS if flags & bit)
    transport, limit = ("udp", udp_limit(found.edns)) if is_udp else ("tcp", MAX_TCP_BYTES)
    wants_dnssec = str(found.edns is not None and found.edns.wants_dnssec).lower()
    head = f'"{found.type} IN {found.name} {transport} {len(asked)} {wants_dnssec} {limit}"'
    return f"{head} {_RCODES.get(flags & 15, str(flags & 15))} {names} {len(reply)}"


def main(boot: LabContext, arguments: dict[str, Any]) -> None:
    """The role: lives as long as its pod."""
    import dnslib  # noqa: F401  (now rather than with the first question)

    os.chdir("/")
    with suppress(OSError):
        print(".:53\nCoreDNS, built into kubenetlab: one line for each question", flush=True)
    asyncio.run(CoreDNS(boot.path(rundir.INNER_API_SOCKET)).run())
