"""Images that people keep a shell in: they run and do nothing, but for ports that the manifest declares or states."""

from kubenetlab.api.containers import Container
from kubenetlab.programs import Ports, Setup, declared_ports

TAKES_PORTS = True


def configure(container: Container, ports: Ports) -> Setup:
    listeners = ports.stated if ports.stated is not None else declared_ports(container)
    return Setup("default", {}, listeners) if listeners else Setup("idle")
