"""Masquerade to the outside only: what leaves the cluster leaves with the node's address, all else keeps its own.

Names follow ip-masq-agent, which does the same for clusters with kubenet.
Source: kubernetes-sigs/ip-masq-agent cmd/ip-masq-agent (chain IP-MASQ-AGENT, nonMasqueradeCIDRs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.nftables import NFT_FAMILIES, Chain, Rule, Table
from kubenetlab.hoststate.object import Object
from kubenetlab.names import MASQUERADE_TABLE

AGENT_CHAIN = "IP-MASQ-AGENT"


def rules(node: NodeView) -> Iterator[Object]:
    """The tables that masquerade, one per family, for one node."""
    for index, family in enumerate(node.families):
        inside = [
            (cidrs[index], whose)
            for whose, cidrs in (("pods", node.cluster_cidrs), ("nodes", node.node_cidrs), ("Services", node.service_cidrs))
        ]
        yield from _table(node, NFT_FAMILIES[family.version], inside)


def _table(node: NodeView, family: str, inside: Sequence[tuple[str, str]]) -> Iterator[Object]:
    """`inside` are the ranges to which everybody keeps his address, and whose they are."""
    table = MASQUERADE_TABLE
    yield Table(node.netns, family, table, "masquerade what leaves the cluster")
    yield Chain(
        node.netns,
        family,
        table,
        AGENT_CHAIN,
        (
            *(
                Rule(f"{family} daddr {cidr} return", f"ip-masq-agent: local traffic is not subject to MASQUERADE ({whose})")
                for cidr, whose in inside
            ),
            Rule("masquerade fully-random", "ip-masq-agent: outbound traffic is subject to MASQUERADE"),
        ),
    )
    jump = Rule(
        f"fib daddr type != local jump {AGENT_CHAIN}",
        "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our chain",
    )
    yield Chain(node.netns, family, table, "postrouting", (jump,), "type nat hook postrouting priority 100")
