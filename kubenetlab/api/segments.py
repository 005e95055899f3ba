"""Subnets of the segments of a routed fabric.

    segment 3    172.18.3.0/24    fd00:172:18:3::/64

A switched fabric has one segment, number 0, with the whole range of node addresses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from kubenetlab.api.config import ROUTED_NODE_SUBNETS, ClusterConfig, Network
from kubenetlab.api.values import ip

MAX_SEGMENTS: Final = 255
NODES_PER_SEGMENT: Final = 253
"""Addresses of an IPv4 subnet without those of the network, the router and the broadcast."""
_PREFIX_LENGTHS: Final = {4: 24, 6: 64}


def segment_networks(config: ClusterConfig, number: int) -> tuple[Network, ...]:
    """Return the subnets of a segment, one per IP family, the primary family first."""
    if config.fabric.topology == "switched":
        return config.node_networks
    return tuple(_subnet(version, number) for version in config.networking.versions)


def router_address(subnet: Network, number: int = 1) -> str:
    """Return the address of a router in a network of nodes.

    The first router has the first address. The second one has the last address of an IPv4 network,
    and the number fffe in an IPv6 network.
    """
    if number == 1:
        return str(subnet[1])
    return str(subnet[-2] if subnet.version == 4 else subnet[0xFFFE])


def segment_of(config: ClusterConfig, address: str) -> int:
    """Return the number of the segment to which a node's address belongs."""
    if config.fabric.topology == "switched":
        return 0
    version = ip.version_of(address)
    offset = int(ip.network(address)[0]) - int(ROUTED_NODE_SUBNETS[version][0])
    return offset >> (ROUTED_NODE_SUBNETS[version].max_prefixlen - _PREFIX_LENGTHS[version])


@lru_cache(maxsize=2 * MAX_SEGMENTS)
def _subnet(version: int, number: int) -> Network:
    length = _PREFIX_LENGTHS[version]
    whole = ROUTED_NODE_SUBNETS[version]
    base = int(whole[0]) + (number << (whole.max_prefixlen - length))
    return ip.network(f"{type(whole[0])(base)}/{length}")
