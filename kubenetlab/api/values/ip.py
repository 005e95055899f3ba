"""Fast parsing of addresses and ranges: the same few occur for every pod."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Literal

MULTICAST: Final = {4: "224.0.0.0/4", 6: "ff00::/8"}
"""IP version → range of multicast addresses."""


@lru_cache(maxsize=2048)
def network(cidr: str) -> IPv4Network | IPv6Network:
    """Return the network of a range such as `10.244.1.0/24`. Raises ValueError."""
    return ip_network(cidr)


def range_of(text: str) -> IPv4Network | IPv6Network | None:
    """Return the network of a range; None for other text.

    Bits after the prefix are ignored, and a single address is no range.
    """
    if "/" not in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def is_address(text: str) -> bool:
    """Return True for an IPv4 or IPv6 address without a zone, which Kubernetes allows nowhere."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_host(cidr: str) -> bool:
    """Return True for a range of a single address."""
    return network(cidr).num_addresses == 1


def is_in(address: str, cidr: str) -> bool:
    """Return True if an address is in a range."""
    parsed, range_ = ip_address(address), network(cidr)
    return parsed.version == range_.version and parsed in range_


def is_part(part: IPv4Network | IPv6Network, whole: IPv4Network | IPv6Network) -> bool:
    """Return True if all addresses of a network are in another one."""
    return part.prefixlen >= whole.prefixlen and part.network_address in whole


def version_of(address: str) -> Literal[4, 6]:
    """Return the IP version of a valid address or range."""
    return 6 if ":" in address else 4


def of_version(texts: Iterable[str], version: int) -> tuple[str, ...]:
    """Return the addresses and ranges of one IP version."""
    return tuple(text for text in texts if version_of(text) == version)
