"""nftables rules of calico-node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import Masquerade, Match, jump, return_

_TABLE: Final = "calico"


def nat_outgoing(node: NodeView) -> Iterator[Object]:
    """Yield the rules that masquerade packets of pools with natOutgoing to other addresses.

    Source: projectcalico/calico felix/rules/nat.go, felix/dataplane/linux/masq_mgr.go.
    """
    for family in node.families:
        pools = [pool for pool in node.ip_pools if pool.spec.network.version == family.version]
        nft = NFT_FAMILIES[family.version]
        rules = [
            *(rule(Match(f"{nft} daddr", pool.spec.cidr), return_) for pool in pools),
            *(
                rule(
                    Match(f"{nft} saddr", pool.spec.cidr),
                    Masquerade(is_fully_random=True),
                    comment=f"natOutgoing of IPPool {pool.name}",
                )
                for pool in pools
                if pool.spec.nat_outgoing
            ),
        ]
        yield Table(node.netns, nft, _TABLE, "rules of calico-node")
        yield Chain(node.netns, nft, _TABLE, "nat-cali-nat-outgoing", tuple(rules))
        yield Chain(
            node.netns,
            nft,
            _TABLE,
            "nat-POSTROUTING",
            (rule(jump("nat-cali-nat-outgoing")),),
            Hook("nat", "postrouting", 100),
        )
