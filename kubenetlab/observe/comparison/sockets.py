"""Sockets in the network namespaces of locations."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from kubenetlab.kernel.syscalls import inside_network
from kubenetlab.observe.targets.locations import Location

TIMEOUT_S = 3.0
"""Time after which a packet or a connection is lost, in seconds."""


@contextmanager
def inside(place: Location, home: int) -> Iterator[None]:
    """Run the block in the network of a location, then return to `home`."""
    with inside_network(os.open(place.netns_path, os.O_RDONLY | os.O_CLOEXEC), home):
        yield


def open_sockets(
    place: Location, kind: socket.SocketKind, home: int, count: int = 1
) -> list[socket.socket]:
    """Open sockets of the family of a location's address in its network."""
    family = socket.AF_INET6 if ip_address(place.address).version == 6 else socket.AF_INET
    with inside(place, home):
        sockets = [socket.socket(family, kind) for _ in range(count)]
    for each in sockets:
        each.settimeout(TIMEOUT_S)
    return sockets
