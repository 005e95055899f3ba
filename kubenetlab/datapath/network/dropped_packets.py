"""Packet filters on the uplink of a node that drop some packets in both directions.

They come before connection tracking, which the packets do not need to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import Match, drop
from kubenetlab.names import NODE_UPLINK

BEFORE_TRACKING: Final = -300
"""Priority `raw` of netfilter hooks, before connection tracking (-200)."""
_LINK_OF_HOOK: Final = {"prerouting": "iifname", "output": "oifname"}
"""Hook → expression for the link of its packets."""


def drop_at_uplink(
    node: NodeView, table: str, comment: str, packets: Sequence[Match]
) -> Iterator[Object]:
    """Yield a table for each IP version that drops packets which any of the matches selects."""
    for family in node.families:
        nft = NFT_FAMILIES[family.version]
        yield Table(node.netns, nft, table, comment)
        for hook, link in _LINK_OF_HOOK.items():
            rules = tuple(rule(Match(link, NODE_UPLINK), match, drop) for match in packets)
            yield Chain(node.netns, nft, table, hook, rules, Hook("filter", hook, BEFORE_TRACKING))
