"""What every namespace begins with: loopback, and settings that do not depend on the machine.

A new network namespace inherits the machine's IPv4 defaults (net.core.devconf_inherit_init_net = 0), so each is said explicitly.
Source: Documentation/networking/ip-sysctl.rst (6.12).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import LOOPBACK, LinkUp
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Setting, Settings, Sysctl
from kubenetlab.names import link_local_of

_ALL_AND_DEFAULT = {  # accept_redirects is not among them: nobody in a lab sends any (router_sysctls)
    "rp_filter": "0",
    "arp_ignore": "0",
    "accept_local": "0",
    "proxy_arp": "0",
    "route_localnet": "0",
}


_IPV6_ALL_AND_DEFAULT = {
    "accept_ra": "0",
    "accept_redirects": "0",
    "accept_dad": "0",
    "addr_gen_mode": "1",
}
"""Addresses are only those that are said, link-local ones too (addr_gen_mode none), and nobody listens for duplicates."""


def loopback_and_sysctls(netns: str, *, has_ipv6: bool, forwards: bool = False) -> Iterator[Object]:
    """For any namespace. `forwards` makes it a router; ip_forward comes first, because changing it resets others."""
    yield LinkUp(netns, LOOPBACK)
    yield Settings(netns, _settings(has_ipv6, forwards))


@cache
def _settings(has_ipv6: bool, forwards: bool) -> tuple[Setting, ...]:
    forwarding = "1" if forwards else "0"
    both = ("all", "default")
    ipv4 = [
        (f"net/ipv4/conf/{whose}/{name}", value, False)
        for name, value in _ALL_AND_DEFAULT.items()
        for whose in both
    ]
    found = [("net/ipv4/ip_forward", forwarding, False), *ipv4]
    found += [
        ("net/ipv4/ip_default_ttl", "64", False),
        ("net/ipv4/ping_group_range", "0\t0", False),
    ]
    if not has_ipv6:
        return (*found, ("net/ipv6/conf/all/disable_ipv6", "1", True))
    ipv6 = [
        (f"net/ipv6/conf/{whose}/{name}", value, False)
        for name, value in _IPV6_ALL_AND_DEFAULT.items()
        for whose in both
    ]
    return (
        *found,
        ("net/ipv6/conf/all/disable_ipv6", "0", False),
        ("net/ipv6/conf/all/forwarding", forwarding, False),
        *ipv6,
    )


def router_sysctls(netns: str, *, has_ipv6: bool) -> Iterator[Object]:
    """For nodes and routers: no redirects (a pod would send the next packet past its node), ARP in the name of the link asked on,
    and word for every packet that has no way, not for one a second, nor for fifty at once (no type of ICMP is limited; of IPv6's, only 0,
    which is nobody's: a list of none cannot be read back)."""
    yield Sysctl(netns, "net/ipv4/icmp_ratemask", "0")
    for whose in ("all", "default"):
        yield Sysctl(netns, f"net/ipv4/conf/{whose}/send_redirects", "0")
        yield Sysctl(netns, f"net/ipv4/conf/{whose}/arp_announce", "2")
    if has_ipv6:
        yield Sysctl(netns, "net/ipv6/icmp/ratemask", "0")


def link_local(netns: str, link: str, mac: str, *, has_ipv6: bool) -> Iterator[Object]:
    """The address from which a link asks for its neighbours' MACs, on behalf of whatever it forwards."""
    if has_ipv6:
        yield Address(netns, link, f"{link_local_of(mac)}/64")
