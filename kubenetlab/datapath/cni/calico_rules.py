"""nftables rules of calico-node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.datapath.cni.calico_blocks import outermost
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import (
    NFT_FAMILIES,
    Chain,
    Collection,
    Element,
    Hook,
    SetType,
    Table,
    rule,
)
from kubenetlab.hoststate.rules.nftables.statements import InSet, Masquerade, jump

_TABLE: Final = "calico"
_ALL_POOLS: Final = "cali{}0all-ipam-pools"
"""Set of the ranges of all pools, by IP version."""
_NAT_POOLS: Final = "cali{}0masq-ipam-pools"
"""Set of the ranges of the pools with natOutgoing, by IP version."""


def nat_outgoing(node: NodeView) -> Iterator[Object]:
    """Yield the rules that masquerade packets of pools with natOutgoing to other addresses.

    Source: projectcalico/calico felix/rules/nat.go, felix/dataplane/linux/masq_mgr.go.
    """
    for family in node.families:
        pools = [pool for pool in node.ip_pools if pool.spec.network.version == family.version]
        masqueraded = [pool for pool in pools if pool.spec.nat_outgoing]
        nft = NFT_FAMILIES[family.version]
        everything, sources = (name.format(family.version) for name in (_ALL_POOLS, _NAT_POOLS))
        ranges = SetType((f"ipv{family.version}_addr",), is_interval=True)
        yield Table(node.netns, nft, _TABLE, "rules of calico-node")
        for name, members in ((everything, pools), (sources, masqueraded)):
            yield Collection(node.netns, nft, _TABLE, name, ranges)
            for cidr in outermost(members):
                yield Element(node.netns, nft, _TABLE, name, ranges, (cidr,))
        egress = rule(
            InSet((f"{nft} saddr",), sources, is_interval=True),
            InSet((f"{nft} daddr",), everything, is_negated=True, is_interval=True),
            Masquerade(is_fully_random=True),
        )
        rules = (egress,) if masqueraded else ()
        yield Chain(node.netns, nft, _TABLE, "nat-cali-nat-outgoing", rules)
        yield Chain(
            node.netns,
            nft,
            _TABLE,
            "nat-POSTROUTING",
            (rule(jump("nat-cali-nat-outgoing")),),
            Hook("nat", "postrouting", 100),
        )
