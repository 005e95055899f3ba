"""Masquerade on nodes: traffic that leaves the cluster gets the node's address.

Names follow ip-masq-agent, which does the same in clusters with kubenet. Its ConfigMap lists the
destinations towards which sources are kept; without it these are the cluster's own ranges.
Source: kubernetes-sigs/ip-masq-agent cmd/ip-masq-agent (chain IP-MASQ-AGENT, nonMasqueradeCIDRs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.values.ip import of_version
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Rule, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import Masquerade, Match, jump, return_
from kubenetlab.names import MASQUERADE_TABLE

AGENT_CHAIN = "IP-MASQ-AGENT"
_LINK_LOCAL: Final = {4: "169.254.0.0/16", 6: "fe80::/10"}
_KEPT = "ip-masq-agent: local traffic is not subject to MASQUERADE"

Kept = Sequence[tuple[str, str]]
"""(range of destinations towards which sources are kept, comment of its rule)"""


def rules(node: NodeView, config: MasqueradeConfig | None = None) -> Iterator[Object]:
    """Yield the tables that masquerade on one node, one per family.

    config: settings of the ConfigMap; None without one.
    """
    for index, family in enumerate(node.families):
        kept = _of_cluster(node, index) if config is None else _configured(config, family.version)
        yield from _table(node, NFT_FAMILIES[family.version], kept)


def _of_cluster(node: NodeView, index: int) -> Kept:
    ranges = (
        ("pods", node.cluster_cidrs),
        ("nodes", node.node_cidrs),
        ("Services", node.service_cidrs),
    )
    return [(cidrs[index], f"{_KEPT} ({owner})") for owner, cidrs in ranges]


def _configured(config: MasqueradeConfig, version: int) -> Kept:
    is_masqueraded = config.masq_link_local_ipv6 if version == 6 else config.masq_link_local
    link_local = () if is_masqueraded else (_LINK_LOCAL[version],)
    given = of_version(config.non_masquerade_cidrs, version)
    return [(cidr, _KEPT) for cidr in dict.fromkeys((*link_local, *given))]


def _table(node: NodeView, family: str, kept: Kept) -> Iterator[Object]:
    table = MASQUERADE_TABLE
    yield Table(node.netns, family, table, "masquerade what leaves the cluster")
    yield Chain(
        node.netns,
        family,
        table,
        AGENT_CHAIN,
        (
            *(_keeping(family, cidr, comment) for cidr, comment in kept),
            rule(
                Masquerade(is_fully_random=True),
                comment="ip-masq-agent: outbound traffic is subject to MASQUERADE",
            ),
        ),
    )
    to_agent = rule(
        Match("fib daddr type", "local", is_negated=True),
        jump(AGENT_CHAIN),
        comment="ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic "
        "to our chain",
    )
    yield Chain(
        node.netns, family, table, "postrouting", (to_agent,), Hook("nat", "postrouting", 100)
    )


def _keeping(family: str, cidr: str, comment: str) -> Rule:
    """Return the rule that keeps sources towards a range; a range of length 0 needs no match."""
    match = () if cidr.endswith("/0") else (Match(f"{family} daddr", cidr),)
    return rule(*match, return_, comment=comment)
