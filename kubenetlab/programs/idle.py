"""Images that people keep a shell in: they run and do nothing, but for ports that the manifest declares."""

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import Listener
from kubenetlab.programs import Setup
from kubenetlab.programs.arguments import declared_ports


def configure(container: Container, service_ports: tuple[Listener, ...]) -> Setup:
    ports = declared_ports(container)
    return Setup("default", {}, ports) if ports else Setup("idle")
