"""Arithmetic of address ranges: which address is whose. Pure numbers, no state.

Source of the bands: Kubernetes KEP-3070, pkg/registry/core/service/ipallocator.
"""

import hashlib
from collections.abc import Container, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain

from kubenetlab.api.config import Network

Address = IPv4Address | IPv6Address


def gateway(node_network: Network) -> Address:
    """The address of the bridge: the first of the node's range."""
    return node_network[1]


def pod_addresses_after(
    node_network: Network, last: str, first: int, end: int
) -> Iterator[Address]:
    """The addresses from number `first` to before number `end`, beginning behind the one given out last, round to it again."""
    start = int(ip_address(last)) - int(node_network.network_address) + 1 if last else first
    count = end - first
    for step in range(count):
        yield node_network[first + (start - first + step) % count]


def static_band(service_network: Network) -> int:
    """How many addresses at the beginning of the range are kept for those who ask for one: min(max(16, size/16), 256)."""
    return min(max(16, service_network.num_addresses // 16), 256)


def cluster_ip_for(service_network: Network, name: str, taken: Container[str]) -> str | None:
    """A free cluster IP for a Service, or None when the range is full.

    Kubernetes draws at random above the static band and uses the band only when the rest is full; here the draw is a hash of the
    Service's full name, so that the same manifests give the same addresses.
    """
    size = service_network.num_addresses
    last = size - 2 if service_network.version == 4 else size - 1
    band = static_band(service_network)
    upper = max(0, last - band)
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    above = (band + 1 + (draw + step) % upper for step in range(upper))
    for offset in chain(above, range(1, min(band, last) + 1)):
        address = str(service_network[offset])
        if address not in taken:
            return address
    return None


def dns_address(service_network: Network) -> str:
    """The cluster DNS's address: by convention the tenth of the range."""
    return str(service_network[10])
