"""The default server: stands in for every image that is not known, on each of its ports.

A container that declares no port listens on the numeric target ports of the Services that select its pod.

It answers any path with 200 and says who it is and whom it sees; the paths and datagrams of agnhost netexec work too.
"""

from __future__ import annotations

from kubenetlab.api.containers import Container
from kubenetlab.names import socket_address
from kubenetlab.programs import Ports, Setup, netexec
from kubenetlab.programs.http import Peer, PodIdentity, Request, Response, text

TAKES_PORTS = True
SERVES_TLS = True
"""True for a server that answers TLS beside HTTP, with a certificate of its own: what the image would do is not known."""
_NETEXEC_PATHS = frozenset(
    ("/hostname", "/hostName", "/clientip", "/echo", "/dial", "/exit", "/shutdown")
)


def configure(container: Container, ports: Ports) -> Setup:
    return Setup("default", {}, ports.of(container))


async def http(request: Request, me: PodIdentity) -> Response:
    if request.path in _NETEXEC_PATHS:
        return await netexec.http(request, me)
    return text(
        f"{me.namespace}/{me.pod} ({me.address} on {me.node}) sees {socket_address(*request.peer)}\n"
    )


def datagram(data: bytes, peer: Peer, me: PodIdentity) -> bytes | None:
    """Answer any datagram: who stands in for an image that is not known is to be seen."""
    known = netexec.datagram(data, peer, me)
    command = data.decode(errors="replace").strip().partition(" ")[0]
    return known if known is not None or not command else f"unknown command: {command}".encode()
