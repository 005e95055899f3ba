"""Arithmetic of address ranges: addresses of pods, and cluster IPs.

Source of the bands: Kubernetes KEP-3070, pkg/registry/core/service/ipallocator.
"""

import hashlib
from collections.abc import Container, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain

from kubenetlab.api.config import Network

Address = IPv4Address | IPv6Address


def pod_numbers_after(node_network: Network, latest: str, first: int, end: int) -> Iterator[int]:
    """Yield the numbers `first` to `end - 1` of a node's addresses, after that of `latest`.

    The order is cyclic: it ends with `latest`. It starts at `first` if `latest` is empty or has
    another number.
    """
    start = int(ip_address(latest)) - int(node_network.network_address) + 1 if latest else first
    if not first < start < end:
        start = first
    yield from range(start, end)
    yield from range(first, start)


def static_band(service_network: Network) -> int:
    """Return the number of addresses at the start of the range reserved for explicit requests.

    It is min(max(16, size/16), 256).
    """
    return min(max(16, service_network.num_addresses // 16), 256)


def cluster_ip_for(service_network: Network, name: str, taken: Container[str]) -> str | None:
    """Return a free cluster IP for the Service `name`; None when the range is full.

    Kubernetes draws at random above the static band and uses the band only when the rest is full.
    Here the draw is a hash of the Service's full name: equal manifests give equal addresses.
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
    """Return the address of the cluster DNS: by convention the tenth of the range."""
    return str(service_network[10])
