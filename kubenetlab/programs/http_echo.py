"""hashicorp/http-echo: answers every request with the same text.

Source: github.com/hashicorp/http-echo README (port 5678; -listen=:PORT, -text=TEXT, or the variable
ECHO_TEXT).
"""

from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Ports, Setup
from kubenetlab.programs.support.arguments import arguments, misused, options, port_number
from kubenetlab.programs.support.http import ProgramContext, Request, Response, text

READS_ARGUMENTS = True

OPTIONS: Final = frozenset(("text", "listen"))
"""Modelled flags."""


def options_of(container: Container) -> tuple[str, frozenset[str]] | None:
    """Return the title and the modelled flags.

    Return None when the container has a command of its own.
    """
    return ("http-echo", OPTIONS) if not container.command else None


def runs_until_stopped(container: Container) -> bool:
    """Return True unless the container has a command of its own."""
    return not container.command


def configure(container: Container, ports: Ports) -> Setup:
    flags = options(arguments(container))
    environment = {variable.name: variable.value for variable in container.env}
    try:
        port = port_number(flags.get("listen", ":5678").rpartition(":")[2])
    except ValueError as error:
        return misused(str(error))
    body = flags.get("text", environment.get("ECHO_TEXT", "hello-world"))
    return Setup("http_echo", {"text": body}, (ListenPort("TCP", port),))


async def http(request: Request, context: ProgramContext) -> Response:
    return text(f"{context.options['text']}\n")
