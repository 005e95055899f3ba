"""The default server: stands in for every image that is not known, on each of its ports.

It answers any path with 200 and says who it is and whom it sees; the paths and datagrams of agnhost netexec work too.
"""

from __future__ import annotations

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import Listener
from kubenetlab.names import socket_address
from kubenetlab.programs import Setup, netexec
from kubenetlab.programs.arguments import declared_ports
from kubenetlab.programs.http import Me, Peer, Request, Response, text

_NETEXEC_PATHS = frozenset(("/hostname", "/hostName", "/clientip", "/echo", "/dial", "/exit", "/shutdown"))


def configure(container: Container, service_ports: tuple[Listener, ...]) -> Setup:
    return Setup("default", {}, tuple(dict.fromkeys((*declared_ports(container), *service_ports))))


async def http(request: Request, me: Me) -> Response:
    if request.path in _NETEXEC_PATHS:
        return await netexec.http(request, me)
    return text(f"{me.namespace}/{me.pod} ({me.address} on {me.node}) sees {socket_address(*request.peer)}\n")


def datagram(data: bytes, peer: Peer, me: Me) -> bytes | None:
    return netexec.datagram(data, peer, me)
