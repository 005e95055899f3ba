"""What every namespace begins with: loopback, and settings that do not depend on the machine.

A new network namespace inherits the machine's IPv4 defaults (net.core.devconf_inherit_init_net = 0), so each is said explicitly.
Source: Documentation/networking/ip-sysctl.rst (6.12).
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.hoststate.link import LOOPBACK, LinkUp
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Sysctl

_ALL_AND_DEFAULT = {
    "rp_filter": "0",
    "arp_ignore": "0",
    "accept_redirects": "0",
    "accept_local": "0",
    "proxy_arp": "0",
    "route_localnet": "0",
}


def loopback_and_sysctls(netns: str, *, forwards: bool = False) -> Iterator[Object]:
    """For any namespace. `forwards` makes it a router; ip_forward comes first, because changing it resets others."""
    yield LinkUp(netns, LOOPBACK)
    yield Sysctl(netns, "net/ipv4/ip_forward", "1" if forwards else "0")
    for name, value in _ALL_AND_DEFAULT.items():
        for whose in ("all", "default"):
            yield Sysctl(netns, f"net/ipv4/conf/{whose}/{name}", value)
    yield Sysctl(netns, "net/ipv4/ip_default_ttl", "64")
    yield Sysctl(netns, "net/ipv4/ping_group_range", "0\t0")
    yield Sysctl(netns, "net/ipv6/conf/all/disable_ipv6", "1", is_optional=True)


def router_sysctls(netns: str) -> Iterator[Object]:
    """For nodes and routers: no redirects (a pod would send the next packet past its node), ARP in the name of the link asked on,
    and word for every packet that has no way, not for one a second."""
    yield Sysctl(netns, "net/ipv4/icmp_ratelimit", "0")
    for whose in ("all", "default"):
        yield Sysctl(netns, f"net/ipv4/conf/{whose}/send_redirects", "0")
        yield Sysctl(netns, f"net/ipv4/conf/{whose}/arp_announce", "2")
