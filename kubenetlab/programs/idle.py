"""Images used for their shell: they do nothing but listen on declared or stated ports."""

from kubenetlab.api.containers import Container
from kubenetlab.programs import Ports, Setup, declared_ports, image_name

TAKES_PORTS = True


def runs_until_stopped(container: Container) -> bool:
    """Return True for the pause image; a shell without a terminal ends at once."""
    return image_name(container.image) == "pause"


def configure(container: Container, ports: Ports) -> Setup:
    listeners = ports.stated if ports.stated is not None else declared_ports(container)
    return Setup("default", {}, listeners) if listeners else Setup("idle")
