"""Masquerade of packets from pods as Cilium makes it, by iptables.

Source: cilium/cilium pkg/datapath/iptables/iptables.go.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.iptables import FAMILIES, IptablesChain, Jump, comment


def rules(node: NodeView, *, has_tunnels: bool) -> Iterator[Object]:
    """Yield Cilium's chain; the ConfigMap of ip-masq-agent has no effect.

    Chains that only accept packets are left out: the nodes of a lab drop none.
    """
    for index, family in enumerate(node.families):
        if not family.ranges:
            continue
        own, cluster = family.pod_cidr, node.cluster_cidrs[index]
        kept = own if has_tunnels else cluster
        lines = [
            f"-s {own} ! -d {kept} ! -o cilium_+ "
            f"{comment('cilium masquerade non-cluster')} -j MASQUERADE"
        ]
        if not has_tunnels:
            exclusion = comment("exclude traffic to cluster nodes from masquerade")
            lines.insert(0, f"-s {own} -d {node.node_cidrs[index]} {exclusion} -j ACCEPT")
        version, chain = FAMILIES[family.version], "CILIUM_POST_nat"
        yield IptablesChain(node.netns, version, "nat", chain, tuple(lines))
        jump = f"{comment(f'cilium-feeder: {chain}')} -j {chain}"
        yield Jump(node.netns, version, "nat", "POSTROUTING", jump)
