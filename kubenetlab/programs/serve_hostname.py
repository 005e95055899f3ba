"""agnhost serve-hostname: answers every request, HTTP, TCP or UDP, with its hostname.

Source: kubernetes test/images/agnhost/serve-hostname (port 9376; --http, --tcp and --udp choose what is served).
"""

from typing import Final

from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Setup
from kubenetlab.programs.arguments import misused, options, port_number
from kubenetlab.programs.http import Peer, PodIdentity, Request, Response, text

OPTIONS: Final = frozenset(("tcp", "udp", "http", "port"))
"""The flags that are modelled."""


def configure_arguments(words: tuple[str, ...]) -> Setup:
    given = options(words)
    try:
        port = port_number(given.get("port", "9376"))
    except ValueError as error:
        return misused(str(error))
    chosen = [
        ListenPort(protocol, port)
        for flag, protocol in (("tcp", "TCP"), ("udp", "UDP"))
        if given.get(flag) == "true"
    ]
    if given.get("http", "true") == "true" and ListenPort("TCP", port) not in chosen:
        chosen.insert(0, ListenPort("TCP", port))
    return Setup("serve_hostname", {}, tuple(chosen))


async def http(request: Request, me: PodIdentity) -> Response:
    return text(me.hostname)


def datagram(data: bytes, peer: Peer, me: PodIdentity) -> bytes | None:
    return me.hostname.encode()
