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

from kubenetlab.datapath.proxy.nftables_table import FamilyTable, destination, node_port_key
from kubenetlab.datapath.proxy.services import PortView
from kubenetlab.hoststate.rules.nftables import Collection, Element, InTable, Rule

HAIRPIN = "hairpin"


def fits(port: PortView) -> bool:
    """Return True for a port that only needs endpoints, each equally good for every client."""
    is_local = port.is_internal_local or (port.is_external_local and port.is_reached_from_outside)
    return bool(port.cluster_endpoints) and not (
        is_local or port.affinity_s or (port.virtual_ips and port.sources)
    )


def hairpin_set(family_table: FamilyTable) -> Collection:
    """Return the set of pairs (pod address, the same address)."""
    return family_table.collection(
        HAIRPIN, "ADDR . ADDR", "Pods of this node that may be led to themselves"
    )


def hairpin_rule(family_table: FamilyTable) -> Rule:
    """Return the rule that masquerades a pod which reaches itself through a Service.

    Otherwise the pod would answer itself directly, past the translation.
    """
    return Rule(
        f"ct status dnat {family_table.family} saddr . {family_table.family} daddr @{HAIRPIN} "
        "masquerade fully-random"
    )


def entries(family_table: FamilyTable, port: PortView) -> Iterator[InTable]:
    """Yield the map entries of one port."""
    chain, endpoints = (
        f"lb-{port.protocol}-{len(port.cluster_endpoints)}",
        f"{port.protocol}-endpoints",
    )
    yield family_table.element(
        "service-ips", destination(port, port.cluster_ip), f"goto {chain}", port.title
    )
    yield from _numbered(family_table, endpoints, f"{port.cluster_ip} . {port.port}", port)
    for address in port.outside_ips:
        yield family_table.element(
            "service-ips", destination(port, address), f"goto external-{chain}", port.title
        )
        yield from _numbered(family_table, endpoints, f"{address} . {port.port}", port)
    if port.node_port:
        yield family_table.element(
            "service-nodeports", node_port_key(port), f"goto nodeport-{chain}", port.title
        )
        yield from _numbered(
            family_table, f"{port.protocol}-nodeport-endpoints", f"{port.node_port}", port
        )


def shared(family_table: FamilyTable, port: PortView, outsiders: str | None) -> Iterator[InTable]:
    """Yield the maps of the port's protocol and the chains for its number of endpoints.

    Other ports may yield the same objects.
    outsiders: match of the traffic to the cluster IP that is masqueraded; None if there is none.
    """
    chain, count = f"lb-{port.protocol}-{len(port.cluster_endpoints)}", len(port.cluster_endpoints)
    number, address = (
        f"{port.protocol} dport",
        f"{family_table.family} daddr . {port.protocol} dport",
    )
    endpoints, node_port_endpoints = (
        f"{port.protocol}-endpoints",
        f"{port.protocol}-nodeport-endpoints",
    )
    marked = Rule("jump mark-for-masquerade")
    choice = Rule(f"dnat to {address} . numgen random mod {count} map @{endpoints}")
    yield family_table.typeof(
        endpoints,
        f"{address} . numgen random mod 65536 : {address}",
        "Endpoints of each address by number",
    )
    marking = () if outsiders is None else (Rule(f"{outsiders}jump mark-for-masquerade"),)
    yield family_table.chain(chain, (*marking, choice))
    if port.outside_ips:
        yield family_table.chain(f"external-{chain}", (marked, choice))
    if port.node_port:
        choice = Rule(f"dnat to {number} . numgen random mod {count} map @{node_port_endpoints}")
        yield family_table.typeof(
            node_port_endpoints,
            f"{number} . numgen random mod 65536 : {address}",
            "Endpoints of each node port by number",
        )
        yield family_table.chain(f"nodeport-{chain}", (marked, choice))


def pod_entry(family_table: FamilyTable, address: str) -> Element:
    """Return the entry of a pod on this node, which is needed where the pod can reach itself."""
    return family_table.element(HAIRPIN, f"{address} . {address}")


def _numbered(
    family_table: FamilyTable, map_name: str, key: str, port: PortView
) -> Iterator[Element]:
    """Yield the endpoints of an address with their numbers. Comments are only in `service-ips`."""
    for number, endpoint in enumerate(port.cluster_endpoints):
        yield family_table.element(
            map_name, f"{key} . {number}", f"{endpoint.address} . {endpoint.port}"
        )
