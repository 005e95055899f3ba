"""Layout `fast` of nftables: Services are map entries, with one chain per number of endpoints.

    service-ips    10.96.12.7 . tcp . 80 : goto lb-tcp-3
    lb-tcp-3       dnat to ip daddr . tcp dport . numgen random mod 3 map @tcp-endpoints
    tcp-endpoints  10.96.12.7 . 80 . 0 : 10.244.1.5 . 8080, and so on to . 2

The time in which the kernel loads one chain per Service and endpoint grows with the square of their
number; the time for map entries does not. A pod that reaches itself is recognised in postrouting,
by the set `hairpin`. Ports with session affinity, a policy Local or source ranges keep kube-proxy's
own chains. Each protocol has its own maps: nft 1.0.6 adds no rule to a map with `th dport` in its
data type once the map is loaded ("conflicting protocols specified: tcp vs. th").
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from kubenetlab.datapath.proxy.nftables_table import (
    MARK,
    PAIRS,
    FamilyTable,
    destination,
    node_port_key,
)
from kubenetlab.datapath.proxy.services import PortView
from kubenetlab.hoststate.rules.nftables import Collection, Element, InTable, Rule, SetType, rule
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    DnatFromMap,
    InSet,
    Masquerade,
    Match,
    goto,
)

HAIRPIN = "hairpin"
_NUMBER = "numgen random mod 65536"
"""Number of an endpoint, as the last component of a key."""


def fits(port: PortView) -> bool:
    """Return True for a port without affinity, policy Local and source ranges that has endpoints.

    Any of its endpoints may serve any client.
    """
    is_local = port.is_internal_local or (port.is_external_local and port.is_reached_from_outside)
    return bool(port.cluster_endpoints) and not (
        is_local or port.affinity_s or (port.virtual_ips and port.sources)
    )


class _EndpointMap(Struct, frozen=True):
    """Map from an address or a node port, and a number, to an endpoint."""

    name: str
    selectors: tuple[str, ...]
    """Components of the key before the number."""
    type: SetType
    comment: str


@lru_cache(8)
def _endpoint_maps(family: str, protocol: str) -> tuple[_EndpointMap, _EndpointMap]:
    """Return the maps of a protocol: by address, and by node port."""
    port = f"{protocol} dport"
    address = (f"{family} daddr", port)
    return (
        _EndpointMap(
            f"{protocol}-endpoints",
            address,
            SetType((*address, _NUMBER), address, is_typeof=True),
            "Endpoints of each address by number",
        ),
        _EndpointMap(
            f"{protocol}-nodeport-endpoints",
            (port,),
            SetType((port, _NUMBER), address, is_typeof=True),
            "Endpoints of each node port by number",
        ),
    )


def hairpin_set(family_table: FamilyTable) -> Collection:
    """Return the set of pairs (pod address, the same address)."""
    return family_table.collection(
        HAIRPIN,
        PAIRS[family_table.family],
        "Pods of this node that may be led to themselves",
    )


def hairpin_rule(family_table: FamilyTable) -> Rule:
    """Return the rule that masquerades a pod which reaches itself through a Service.

    Otherwise the pod would answer itself directly, past the translation.
    """
    pair = (f"{family_table.family} saddr", f"{family_table.family} daddr")
    return rule(Match("ct status", "dnat"), InSet(pair, HAIRPIN), Masquerade(is_fully_random=True))


def entries(family_table: FamilyTable, port: PortView) -> Iterator[InTable]:
    """Yield the map entries of one port."""
    chain = f"lb-{port.protocol}-{len(port.cluster_endpoints)}"
    endpoints, node_port_endpoints = _endpoint_maps(family_table.family, port.protocol)
    yield family_table.verdict(
        "service-ips", destination(port, port.cluster_ip), goto(chain), port.title
    )
    number = str(port.port)
    yield from _numbered(family_table, endpoints, (port.cluster_ip, number), port)
    for address in port.outside_ips:
        yield family_table.verdict(
            "service-ips", destination(port, address), goto(f"external-{chain}"), port.title
        )
        yield from _numbered(family_table, endpoints, (address, number), port)
    if port.node_port:
        yield family_table.verdict(
            "service-nodeports", node_port_key(port), goto(f"nodeport-{chain}"), port.title
        )
        yield from _numbered(family_table, node_port_endpoints, (str(port.node_port),), port)


def shared(
    family_table: FamilyTable, port: PortView, outsiders: tuple[AnyStatement, ...] | None
) -> Iterator[InTable]:
    """Yield the maps of the port's protocol and the chains for its number of endpoints.

    Other ports may yield the same objects.
    outsiders: match of the traffic to the cluster IP that is masqueraded; None if there is none.
    """
    count = len(port.cluster_endpoints)
    chain = f"lb-{port.protocol}-{count}"
    endpoints, node_port_endpoints = _endpoint_maps(family_table.family, port.protocol)
    marked = rule(MARK)
    choice = rule(DnatFromMap(endpoints.selectors, count, endpoints.name))
    yield family_table.collection(endpoints.name, endpoints.type, endpoints.comment)
    marking = () if outsiders is None else (rule(*outsiders, MARK),)
    yield family_table.chain(chain, (*marking, choice))
    if port.outside_ips:
        yield family_table.chain(f"external-{chain}", (marked, choice))
    if port.node_port:
        choice = rule(DnatFromMap(node_port_endpoints.selectors, count, node_port_endpoints.name))
        yield family_table.collection(
            node_port_endpoints.name, node_port_endpoints.type, node_port_endpoints.comment
        )
        yield family_table.chain(f"nodeport-{chain}", (marked, choice))


def pod_entry(family_table: FamilyTable, address: str) -> Element:
    """Return the entry of a pod on this node, which is needed where the pod can reach itself."""
    return family_table.data(HAIRPIN, PAIRS[family_table.family], (address, address))


def _numbered(
    family_table: FamilyTable, target: _EndpointMap, key: tuple[str, ...], port: PortView
) -> Iterator[Element]:
    """Yield the endpoints of an address with their numbers. Comments are only in `service-ips`."""
    for number, endpoint in enumerate(port.cluster_endpoints):
        yield family_table.data(
            target.name,
            target.type,
            (*key, str(number)),
            (endpoint.address, str(endpoint.port)),
        )
