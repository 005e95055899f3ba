"""agnhost, the Kubernetes end-to-end tests' Swiss army knife: which of its programs a container runs.

`pause` is what the image runs without arguments. Source: kubernetes test/images/agnhost/README.md.
"""

from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.programs import Ports, Setup, connect, default, netexec, porter, serve_hostname
from kubenetlab.programs.arguments import arguments

READS_ARGUMENTS = True


_SERVERS: Final = ("netexec", "serve-hostname", "porter", "pause")


_MODELLED: Final = {
    "netexec": netexec.OPTIONS,
    "serve-hostname": serve_hostname.OPTIONS,
    "connect": connect.OPTIONS,
    "porter": frozenset[str](),
    "pause": frozenset[str](),
}
"""Subcommand → the flags that are modelled."""


def options_of(container: Container) -> tuple[str, frozenset[str] | None]:
    """Return what the program is called and the flags that are modelled; None for a subcommand that is not."""
    subcommand = (*_subcommand(container), "pause")[0]
    return f"agnhost {subcommand}", _MODELLED.get(subcommand)


def runs_until_stopped(container: Container) -> bool:
    """Return True for subcommands that serve or wait; others do something and end."""
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
    """The subcommand and its arguments; nothing where the container names none."""
    words = arguments(container)
    return words[1:] if words and words[0].rpartition("/")[2] == "agnhost" else words
