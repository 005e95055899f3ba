"""Source addresses of a node's own and masqueraded packets to pods of other nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_interface

from kubenetlab.api.values.ip import is_part, network, version_of
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import RT_TABLE_MAIN, Route

_Ways = dict[IPv4Network | IPv6Network, list[str]]
"""Destination of routes → source addresses that the kernel may select."""


def node_sources(
    objects: Iterable[Object], own: Sequence[str], others: Sequence[str], version: int
) -> tuple[str, ...]:
    """Return the addresses of one IP version that the kernel may select on a node.

    The longest route to a pod decides: its preferred source, for packets of the node itself, or an
    address of its link. A link whose addresses are no sources (scope `link`) has those of another
    one. If a routing daemon adds the routes to pods, they are not planned: then all links count,
    but those with the network of the node's own pods.

    objects: kernel objects of the node's namespace.
    own, others: ranges of the node's pods, and of the pods of other nodes.
    Source: net/ipv4/devinet.c inet_select_addr(), net/netfilter/nf_nat_masquerade.c (6.1).
    """
    addresses: dict[str, list[Address]] = {}
    routes: list[Route] = []
    for obj in objects:
        if isinstance(obj, Address):
            if _is_global(obj) and version_of(obj.address) == version:
                addresses.setdefault(obj.link, []).append(obj)
        elif _leads_to_pods(obj) and isinstance(obj, Route):
            routes.append(obj)
    ways = _ways(addresses, [each for each in routes if version_of(each.destination) == version])
    sources: dict[str, None] = {}
    for cidr in others:
        if version_of(cidr) != version:
            continue
        way = _longest(ways, network(cidr))
        if way is None:
            return tuple(dict.fromkeys(_of_all_links(addresses, own)))
        sources |= dict.fromkeys(way)
    return tuple(sources)


def _is_global(address: Address) -> bool:
    return address.link != "lo" and not ip_interface(address.address).is_link_local


def _leads_to_pods(obj: Object) -> bool:
    """Return True for a route by a gateway in the main table that is not the default route."""
    return (
        isinstance(obj, Route)
        and obj.table == RT_TABLE_MAIN
        and bool(obj.via)
        and not obj.destination.endswith("/0")
    )


def _ways(addresses: Mapping[str, Sequence[Address]], routes: Iterable[Route]) -> _Ways:
    """Return the routes of a node, and the networks of its links."""
    selectable = {
        link: [_host(each) for each in own if each.is_source] for link, own in addresses.items()
    }
    fallback = next((own for own in selectable.values() if own), [])
    ways: _Ways = {}
    for link, entries in addresses.items():
        for each in entries:
            if each.has_route:
                destination = ip_interface(each.address).network
                ways.setdefault(destination, []).extend(selectable[link] or fallback)
    for route in routes:
        preferred = [route.source] if route.source else []
        ways.setdefault(network(route.destination), []).extend(
            preferred + (selectable.get(route.link) or fallback)
        )
    return ways


def _longest(ways: _Ways, range_: IPv4Network | IPv6Network) -> list[str] | None:
    """Return the sources of the longest route to a range; None if no route covers it."""
    if range_ in ways:
        return ways[range_]
    covering = [destination for destination in ways if is_part(range_, destination)]
    if not covering:
        return None
    return ways[max(covering, key=lambda each: each.prefixlen)]


def _of_all_links(addresses: Mapping[str, Sequence[Address]], own: Sequence[str]) -> Iterator[str]:
    """Yield the source addresses of all links but those whose network is that of own pods."""
    ranges = [network(cidr) for cidr in own]
    for entries in addresses.values():
        networks = [ip_interface(each.address).network for each in entries if each.has_route]
        is_of_pods = any(
            each.num_addresses > 1 and each.version == range_.version and is_part(each, range_)
            for each in networks
            for range_ in ranges
        )
        if not is_of_pods:
            yield from (_host(each) for each in entries if each.is_source)


def _host(address: Address) -> str:
    return str(ip_interface(address.address).ip)
