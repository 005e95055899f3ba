"""Default server: the program for every image that the lab does not know.

A container that declares no port listens on the numeric target ports of the Services that select
its pod. Every path is answered with 200, the pod's identity and the client's address. Some paths
and all datagrams of agnhost netexec work too.
"""

from __future__ import annotations

from kubenetlab.api.containers import Container
from kubenetlab.names import socket_address
from kubenetlab.programs import Ports, Setup, netexec
from kubenetlab.programs.support.http import Peer, ProgramContext, Request, Response, text

TAKES_PORTS = True
SERVES_TLS = True
"""True for a server that also answers TLS on its ports, with its own certificate.

The lab does not know whether the image would serve TLS.
"""
_NETEXEC_PATHS = frozenset(
    ("/hostname", "/hostName", "/clientip", "/echo", "/dial", "/exit", "/shutdown")
)


def configure(container: Container, ports: Ports) -> Setup:
    return Setup("default", {}, ports.of(container))


async def http(request: Request, context: ProgramContext) -> Response:
    if request.path in _NETEXEC_PATHS:
        return await netexec.http(request, context)
    client = socket_address(*request.peer)
    return text(
        f"{context.namespace}/{context.pod} ({context.address} on {context.node}) sees {client}\n"
    )


def datagram(data: bytes, peer: Peer, context: ProgramContext) -> bytes | None:
    """Answer any datagram, so that the server of an unknown image is reachable over UDP."""
    reply = netexec.datagram(data, peer, context)
    command = data.decode(errors="replace").strip().partition(" ")[0]
    return reply if reply is not None or not command else f"unknown command: {command}".encode()
