"""The layout `fast` of nftables: Services as entries of a few maps, with one chain for each number of endpoints.

    service-ips    10.96.12.7 . tcp . 80 : goto lb-tcp-3
    lb-tcp-3       dnat to ip daddr . tcp dport . numgen random mod 3 map @tcp-endpoints
    tcp-endpoints  10.96.12.7 . 80 . 0 : 10.244.1.5 . 8080, and so on to . 2

The kernel loads a chain for each Service and endpoint in a time that grows with the square of their number; a map's entries it does
not. A pod that meets itself is found when it leaves, by the set `hairpin`. What a port asks for beside (affinity, a policy Local,
source ranges) is left to kube-proxy's own chains. Each protocol has maps of its own: nft 1.0.6 adds no rule to a map of data like
`th dport` once the map is loaded (“conflicting protocols specified: tcp vs. th”).
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.proxy.nftables_table import FamilyWords, destination, node_port_key
from kubenetlab.datapath.proxy.services import PortView
from kubenetlab.hoststate.rules.nftables import Collection, Element, InTable, Rule

HAIRPIN = "hairpin"


def fits(port: PortView) -> bool:
    """True when a port asks for nothing but endpoints, each as good as the other for everybody."""
    is_local = port.is_internal_local or (port.is_external_local and port.is_reached_from_outside)
    return bool(port.everywhere) and not (
        is_local or port.affinity_s or (port.balanced_ips and port.sources)
    )


def hairpin_set(words: FamilyWords) -> Collection:
    """Pods, each beside itself: whose packets come back to their sender."""
    return words.collection(
        HAIRPIN, "ADDR . ADDR", "Pods of this node that may be led to themselves"
    )


def hairpin_rule(words: FamilyWords) -> Rule:
    """Whoever was led to himself is masqueraded, or he would answer himself."""
    return Rule(
        f"ct status dnat {words.family} saddr . {words.family} daddr @{HAIRPIN} masquerade fully-random"
    )


def entries(words: FamilyWords, port: PortView) -> Iterator[InTable]:
    """What one port adds to the maps."""
    chain, endpoints = f"lb-{port.protocol}-{len(port.everywhere)}", f"{port.protocol}-endpoints"
    yield words.element(
        "service-ips", destination(port, port.cluster_ip), f"goto {chain}", port.title
    )
    yield from _numbered(words, endpoints, f"{port.cluster_ip} . {port.port}", port)
    for address in port.outside_ips:
        yield words.element(
            "service-ips", destination(port, address), f"goto external-{chain}", port.title
        )
        yield from _numbered(words, endpoints, f"{address} . {port.port}", port)
    if port.node_port:
        yield words.element(
            "service-nodeports", node_port_key(port), f"goto nodeport-{chain}", port.title
        )
        yield from _numbered(
            words, f"{port.protocol}-nodeport-endpoints", f"{port.node_port}", port
        )


def shared(words: FamilyWords, port: PortView, outsiders: str | None) -> Iterator[InTable]:
    """Yield what it has in common with others: the maps of its protocol, and the chains for so many endpoints.

    `outsiders` matches traffic to the cluster IP that is masqueraded; None: there is none.
    """
    chain, count = f"lb-{port.protocol}-{len(port.everywhere)}", len(port.everywhere)
    number, address = f"{port.protocol} dport", f"{words.family} daddr . {port.protocol} dport"
    endpoints, node_port_endpoints = (
        f"{port.protocol}-endpoints",
        f"{port.protocol}-nodeport-endpoints",
    )
    marked = Rule("jump mark-for-masquerade")
    choice = Rule(f"dnat to {address} . numgen random mod {count} map @{endpoints}")
    yield words.typeof(
        endpoints,
        f"{address} . numgen random mod 65536 : {address}",
        "Endpoints of each address by number",
    )
    marking = () if outsiders is None else (Rule(f"{outsiders}jump mark-for-masquerade"),)
    yield words.chain(chain, (*marking, choice))
    if port.outside_ips:
        yield words.chain(f"external-{chain}", (marked, choice))
    if port.node_port:
        choice = Rule(f"dnat to {number} . numgen random mod {count} map @{node_port_endpoints}")
        yield words.typeof(
            node_port_endpoints,
            f"{number} . numgen random mod 65536 : {address}",
            "Endpoints of each node port by number",
        )
        yield words.chain(f"nodeport-{chain}", (marked, choice))


def pod_entry(words: FamilyWords, address: str) -> Element:
    """A pod on this node: it alone can be led to itself here."""
    return words.element(HAIRPIN, f"{address} . {address}")


def _numbered(words: FamilyWords, where: str, key: str, port: PortView) -> Iterator[Element]:
    """Whose they are `service-ips` says."""
    for number, endpoint in enumerate(port.everywhere):
        yield words.element(where, f"{key} . {number}", f"{endpoint.address} . {endpoint.port}")
