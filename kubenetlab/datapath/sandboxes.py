"""Settings that every namespace starts with: loopback, and sysctls independent of the machine.

A new network namespace inherits the machine's IPv4 defaults (net.core.devconf_inherit_init_net =
0), so each value is set explicitly.
Source: Documentation/networking/ip-sysctl.rst (6.12).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.link import LOOPBACK
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Setting, Settings, Sysctl
from kubenetlab.names import link_local_of

_ALL_AND_DEFAULT = {  # without accept_redirects: no router of a lab sends any (router_sysctls)
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
"""IPv6 settings.

The kernel adds no address by itself, no link-local address either (addr_gen_mode none), and runs no
duplicate address detection.
"""


def loopback_and_sysctls(netns: str, *, has_ipv6: bool, forwards: bool = False) -> Iterator[Object]:
    """Yield the loopback link and the settings of any namespace.

    forwards: True for a router. ip_forward comes first, because changing it resets other settings.
    """
    yield LinkUp(netns, LOOPBACK)
    yield Settings(netns, _settings(has_ipv6, forwards))


@cache
def _settings(has_ipv6: bool, forwards: bool) -> tuple[Setting, ...]:
    forwarding = "1" if forwards else "0"
    both = ("all", "default")
    ipv4 = [
        (f"net/ipv4/conf/{scope}/{name}", value, False)
        for name, value in _ALL_AND_DEFAULT.items()
        for scope in both
    ]
    common = [("net/ipv4/ip_forward", forwarding, False), *ipv4]
    common += [
        ("net/ipv4/ip_default_ttl", "64", False),
        ("net/ipv4/ping_group_range", "0\t0", False),
    ]
    if not has_ipv6:
        return (*common, ("net/ipv6/conf/all/disable_ipv6", "1", True))
    ipv6 = [
        (f"net/ipv6/conf/{scope}/{name}", value, False)
        for name, value in _IPV6_ALL_AND_DEFAULT.items()
        for scope in both
    ]
    return (
        *common,
        ("net/ipv6/conf/all/disable_ipv6", "0", False),
        ("net/ipv6/conf/all/forwarding", forwarding, False),
        *ipv6,
    )


def router_sysctls(netns: str, *, has_ipv6: bool) -> Iterator[Object]:
    """Yield the additional settings of nodes and routers.

    - No redirects: a pod would send its next packet past its node.
    - ARP requests use an address of the link on which they are sent.
    - ICMP errors are not rate limited, so that every undeliverable packet is reported. IPv6
      keeps the limit for type 0, which is unused: an empty mask cannot be read back.
    """
    yield Sysctl(netns, "net/ipv4/icmp_ratemask", "0")
    for scope in ("all", "default"):
        yield Sysctl(netns, f"net/ipv4/conf/{scope}/send_redirects", "0")
        yield Sysctl(netns, f"net/ipv4/conf/{scope}/arp_announce", "2")
    if has_ipv6:
        yield Sysctl(netns, "net/ipv6/icmp/ratemask", "0")


def link_local(netns: str, link: str, mac: str, *, has_ipv6: bool) -> Iterator[Object]:
    """Yield the address from which a link resolves the MACs of its neighbours."""
    if has_ipv6:
        yield Address(netns, link, f"{link_local_of(mac)}/64")
