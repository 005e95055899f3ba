"""Masquerade to the outside only: what leaves the cluster leaves with the node's address, all else keeps its own.

Names follow ip-masq-agent, which does the same for clusters with kubenet.
Source: kubernetes-sigs/ip-masq-agent cmd/ip-masq-agent (chain IP-MASQ-AGENT, nonMasqueradeCIDRs).
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.nftables import Chain, Rule, Table
from kubenetlab.hoststate.object import Object
from kubenetlab.names import MASQUERADE_TABLE

FAMILY = "ip"
AGENT_CHAIN = "IP-MASQ-AGENT"


def rules(node: NodeView) -> Iterator[Object]:
    """The table that masquerades, for one node."""
    table = MASQUERADE_TABLE
    inside = [
        (cidr, whose)
        for whose, cidrs in (("pods", node.cluster_cidrs), ("nodes", node.node_cidrs), ("Services", node.service_cidrs))
        for cidr in cidrs
    ]
    yield Table(node.netns, FAMILY, table, "masquerade what leaves the cluster")
    yield Chain(
        node.netns,
        FAMILY,
        table,
        AGENT_CHAIN,
        (
            *(
                Rule(f"ip daddr {cidr} return", f"ip-masq-agent: local traffic is not subject to MASQUERADE ({whose})")
                for cidr, whose in inside
            ),
            Rule("masquerade fully-random", "ip-masq-agent: outbound traffic is subject to MASQUERADE"),
        ),
    )
    jump = Rule(
        f"fib daddr type != local jump {AGENT_CHAIN}",
        "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our chain",
    )
    yield Chain(node.netns, FAMILY, table, "postrouting", (jump,), "type nat hook postrouting priority 100")
