"""agnhost serve-hostname: answers every request, HTTP, TCP or UDP, with its hostname.

Source: kubernetes test/images/agnhost/serve-hostname (port 9376; --http, --tcp and --udp select the
protocols).
"""

from typing import Final

from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Setup
from kubenetlab.programs.support.arguments import misused, options, port_number
from kubenetlab.programs.support.http import Peer, ProgramContext, Request, Response, text

OPTIONS: Final = frozenset(("tcp", "udp", "http", "port"))
"""Modelled flags."""


def configure_arguments(words: tuple[str, ...]) -> Setup:
    flags = options(words)
    try:
        port = port_number(flags.get("port", "9376"))
    except ValueError as error:
        return misused(str(error))
    listeners = [
        ListenPort(protocol, port)
        for flag, protocol in (("tcp", "TCP"), ("udp", "UDP"))
        if flags.get(flag) == "true"
    ]
    if flags.get("http", "true") == "true" and ListenPort("TCP", port) not in listeners:
        listeners.insert(0, ListenPort("TCP", port))
    return Setup("serve_hostname", {}, tuple(listeners))


async def http(request: Request, context: ProgramContext) -> Response:
    return text(context.hostname)


def datagram(data: bytes, peer: Peer, context: ProgramContext) -> bytes | None:
    return context.hostname.encode()
