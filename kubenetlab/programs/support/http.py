"""Interface between programs and their runtime: HTTP messages, the pod's network, identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

from kubenetlab.hoststate.programs import ProgramOptions

Peer = tuple[str, int]
"""(address, port) of the client."""
SocketName = tuple[str | int, ...]
"""Name of a socket as the system calls return it: address, port and, for IPv6, two numbers."""

_MAPPED = "::ffff:"


def plain_peer(name: SocketName) -> Peer:
    """Return the address and port of a socket's peer.

    A dual-stack socket reports an IPv4 address as an IPv6 one (RFC 4291 §2.5.5.2); it is returned
    as IPv4.
    """
    address = str(name[0])
    return (address.removeprefix(_MAPPED) if "." in address else address), int(name[1])


class Request(Struct, frozen=True):
    """One complete HTTP request."""

    method: str
    target: str
    """Path and query as received: `/dial?host=web&port=80`."""
    peer: Peer
    headers: Mapping[str, str] = {}
    """Names in lower case."""
    body: bytes = b""
    port: int = 0
    """Local port that received the request."""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """First value of each parameter."""
        return {
            name: values[0]
            for name, values in parse_qs(
                urlsplit(self.target).query, keep_blank_values=True
            ).items()
        }


class Response(Struct, frozen=True):
    """One complete HTTP response."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}


def text(body: str, status: int = 200) -> Response:
    """Return a response of plain text."""
    return Response(status, body.encode())


class Network(Protocol):
    """The network of the pod: its network namespace and its resolver.

    Every method may raise OSError with a readable message.
    """

    async def resolve(self, name: str, versions: Sequence[int] = ()) -> str:
        """Return an address of a name, by the pod's hosts file and resolv.conf.

        An address is returned as it is.

        versions: IP versions in order of preference; by default those of the pod.
        """

    async def get(self, address: str, port: int, target: str, timeout_s: float) -> Response:
        """Send an HTTP GET and return the response."""

    async def exchange(
        self, address: str, port: int, data: bytes, timeout_s: float, protocol: str = "UDP"
    ) -> bytes:
        """Send one datagram and return the reply; with SCTP, one message."""

    async def connect(self, address: str, port: int, timeout_s: float) -> None:
        """Open and close a TCP connection."""


class PodIdentity(Struct, frozen=True):
    """Pod, node or external host in whose namespaces a program runs."""

    namespace: str
    """Empty for nodes and external hosts."""
    pod: str
    """Name of the pod, node or host."""
    hostname: str
    address: str
    """Address of the primary family."""
    node: str


class ProgramContext(PodIdentity, frozen=True):
    """Context of a running program: its pod, its options and its functions."""

    container: str
    options: ProgramOptions
    network: Network
    log: Callable[[str], None]
    exit: Callable[[int, float], None]
    """End the program with an exit status after a delay in seconds."""
    clock: Callable[[], str]
    """Return the time of day as text."""
    now: Callable[[], float]
    """Return the time in seconds since 1970."""
    memory: object = None
    """State of the program while it runs; see `initial_state()` of programs."""
    is_stopping: bool = False
    """True after SIGTERM, while the program keeps serving."""
