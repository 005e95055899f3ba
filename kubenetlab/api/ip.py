"""Addresses and ranges as text, read quickly: the same few are asked about for every pod."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal


@lru_cache(maxsize=2048)
def network(cidr: str) -> IPv4Network | IPv6Network:
    """`10.244.1.0/24` as a network. Raises ValueError when it is none."""
    return ip_network(cidr)


def is_address(text: str) -> bool:
    """True for an IPv4 or IPv6 address; False for one with a zone such as fe80::1%eth0, which Kubernetes has nowhere."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def version_of(address: str) -> Literal[4, 6]:
    """4 or 6, of an address or range that is one."""
    return 6 if ":" in address else 4
