"""agnhost, the test image of Kubernetes: selects the program by the subcommand.

Without arguments the image runs `pause`. Source: kubernetes test/images/agnhost/README.md.
"""

from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.programs import Ports, Setup, connect, default, netexec, porter, serve_hostname
from kubenetlab.programs.support.arguments import arguments

READS_ARGUMENTS = True

_SERVERS: Final = ("netexec", "serve-hostname", "porter", "pause")
"""Subcommands that run until they are stopped."""

_MODELLED: Final = {
    "netexec": netexec.OPTIONS,
    "serve-hostname": serve_hostname.OPTIONS,
    "connect": connect.OPTIONS,
    "porter": frozenset[str](),
    "pause": frozenset[str](),
}
"""Subcommand → modelled flags."""


def options_of(container: Container) -> tuple[str, frozenset[str] | None]:
    """Return the title of the subcommand and its modelled flags; None when it is not modelled."""
    subcommand = (*_subcommand(container), "pause")[0]
    return f"agnhost {subcommand}", _MODELLED.get(subcommand)


def runs_until_stopped(container: Container) -> bool:
    """Return True for subcommands that serve or wait; others do their work and end."""
    return (*_subcommand(container), "pause")[0] in _SERVERS


def configure(container: Container, ports: Ports) -> Setup:
    match _subcommand(container):
        case ("netexec", *rest):
            return netexec.configure_arguments(tuple(rest), container)
        case ("serve-hostname", *rest):
            return serve_hostname.configure_arguments(tuple(rest))
        case ("porter", *_):
            return porter.configure_environment(container)
        case ("connect", *rest):
            return connect.configure_arguments(tuple(rest))
        case () | ("pause", *_):
            return Setup("idle")
    return default.configure(container, ports)


def _subcommand(container: Container) -> tuple[str, ...]:
    """Return the subcommand and its arguments; nothing when the container has no arguments."""
    words = arguments(container)
    return words[1:] if words and words[0].rpartition("/")[2] == "agnhost" else words
