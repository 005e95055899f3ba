"""What programs see of HTTP, of themselves and of the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

Peer = tuple[str, int]
"""(address, port) of who is at the other end."""

_MAPPED = "::ffff:"


def plain_peer(name: Sequence[Any]) -> Peer:
    """A socket's name as a peer: on a socket of both families an IPv4 address looks like an IPv6 one (RFC 4291 §2.5.5.2)."""
    address = str(name[0])
    return (address.removeprefix(_MAPPED) if "." in address else address), int(name[1])


class Request(Struct, frozen=True):
    """One HTTP request, whole."""

    method: str
    target: str
    """Path and query as they came: `/dial?host=web&port=80`."""
    peer: Peer
    headers: Mapping[str, str] = {}
    """Names in lower case."""
    body: bytes = b""
    port: int = 0
    """The port at which it came in."""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """Each parameter's first value."""
        return {
            name: values[0]
            for name, values in parse_qs(
                urlsplit(self.target).query, keep_blank_values=True
            ).items()
        }


class Response(Struct, frozen=True):
    """One HTTP answer, whole."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}


def text(body: str, status: int = 200) -> Response:
    """An answer of plain text."""
    return Response(status, body.encode())


class Network(Protocol):
    """The network as the pod has it: its own namespace, its own resolver. Every call may raise OSError with a readable message."""

    async def resolve(self, name: str) -> str:
        """The address of a name, by the pod's hosts file and resolv.conf, of its primary family if there is one; an address stands for
        itself."""

    async def get(self, address: str, port: int, target: str, timeout_s: float) -> Response:
        """An HTTP GET."""

    async def exchange(
        self, address: str, port: int, data: bytes, timeout_s: float, protocol: str = "UDP"
    ) -> bytes:
        """One datagram there and one back; or by SCTP one message."""

    async def connect(self, address: str, port: int, timeout_s: float) -> None:
        """A TCP connection made and closed."""


class PodIdentity(Struct, frozen=True):
    """Who a program is, and what it can do."""

    namespace: str
    pod: str
    hostname: str
    address: str
    node: str
    container: str
    options: Mapping[str, Any]
    network: Network
    log: Callable[[str], None]
    exit: Callable[[int, float], None]
    """Ends the program with a status after so many seconds."""
    clock: Callable[[], str]
    """The time of day as text."""
    now: Callable[[], float]
    """The time in seconds since 1970."""
    memory: Any = None
    """What the program remembers as long as it runs."""
    is_stopping: bool = False
    """True once it has got SIGTERM, and serves on for a while."""


HttpHandler = Callable[[Request, PodIdentity], Awaitable[Response]]
DatagramHandler = Callable[[bytes, Peer, PodIdentity], bytes | None]
