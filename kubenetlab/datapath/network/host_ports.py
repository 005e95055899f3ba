"""hostPort: a port of a node that leads to a pod on it, as the CNI plugin portmap implements it.

It works the same with every CNI mode.

    prerouting, output  →  hostip_hostports (rules with a hostIP), hostports (others): dnat
    masquerading        →  a pod that reaches itself, and clients at the node's own 127.0.0.1

Every other client keeps its address.
Source: containernetworking/plugins plugins/meta/portmap/portmap_nftables.go (1.6).
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.values import ip
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Rule, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import Dnat, Masquerade, Match, jump
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.names import HOST_PORT_TABLE

HOST_PORTS, HOST_IP_PORTS = "hostports", "hostip_hostports"
LOOPBACKS = {4: "127.0.0.1", 6: "::1"}
_ANY = ("", "0.0.0.0", "::")


def rules(node: NodeView) -> Iterator[Object]:
    """Yield one table per family; none if no pod of the node has a host port."""
    pods = [pod for pod in node.pods if pod.host_ports]
    if pods:
        yield Sysctl(node.netns, "net/ipv4/conf/all/route_localnet", "1")
    for index, family in enumerate(node.families):
        if pods:
            yield from _table(node.netns, NFT_FAMILIES[family.version], family.version, index, pods)


def _table(
    netns: str, family: str, version: int, index: int, pods: list[PodView]
) -> Iterator[Object]:
    with_host_ip: list[Rule] = []
    any_address: list[Rule] = []
    masquerades: list[Rule] = []
    for pod in pods:
        address, comment = pod.addresses[index], f"pod {pod.full_name}"
        for host_ip, protocol, number, target in pod.host_ports:
            forward = Match(f"{protocol.lower()} dport", str(number)), Dnat(address, target)
            if host_ip in _ANY:
                any_address.append(rule(*forward, comment=comment))
            elif ip.version_of(host_ip) == version:
                to_host_ip = Match(f"{family} daddr", host_ip)
                with_host_ip.append(rule(to_host_ip, *forward, comment=comment))
        masquerades += (
            rule(
                Match(f"{family} saddr", source),
                Match(f"{family} daddr", address),
                Masquerade(),
                comment=comment,
            )
            for source in (address, LOOPBACKS[version])
        )
    local = rule(Match("fib daddr type", "local"), jump(HOST_PORTS))
    yield Table(netns, family, HOST_PORT_TABLE, "CNI portmap plugin")
    yield Chain(netns, family, HOST_PORT_TABLE, HOST_IP_PORTS, tuple(with_host_ip))
    yield Chain(netns, family, HOST_PORT_TABLE, HOST_PORTS, tuple(any_address))
    for hook in ("prerouting", "output"):
        jumps = (rule(jump(HOST_IP_PORTS)), local)
        yield Chain(netns, family, HOST_PORT_TABLE, hook, jumps, Hook("nat", hook, -100))
    yield Chain(
        netns,
        family,
        HOST_PORT_TABLE,
        "masquerading",
        tuple(masquerades),
        Hook("nat", "postrouting", 100),
    )
