"""mtu: a smaller MTU on the link of one node, and no ICMP message about it.

The link of the node to the fabric has an MTU of `size` bytes. Pods do not know that: their MTU is
that of other nodes. Packets of pods that are too large for the link are dropped on the node, and
the ICMP message "fragmentation needed" (IPv6: "packet too big") is lost, as behind a packet filter
that drops all ICMP. So path MTU discovery (RFC 1191, RFC 8201) does not work: connections are
established, pings and small responses arrive, and large ones hang (RFC 2923, "black hole").

Pods of the node are concerned when they send to pods of other nodes and to the outside. What others
send to them by TCP arrives, because the kernel cuts it into segments only behind the link (GSO).
The node itself knows the MTU of its link and announces it in its connections. VXLAN datagrams would
be fragmented; here they have the flag DF, because many networks drop fragments.

The cure in a real cluster is an MTU of pods that fits, or TCP MSS clamping.

How to diagnose:
    kubenetlab ping                                         small packets pass
    kubenetlab exec POD -- ping -M do -s 1372 ADDRESS       then with larger sizes
    kubenetlab exec node:NODE -- ip link show eth0          and `ip link` in pods
    kubenetlab diff                                         the MTU, and the packet filter
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

from msgspec import Meta, structs

from kubenetlab.api.faults import FaultSpec
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.datapath.faults import BreakOptions, unknown_node
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.network.dropped_packets import BEFORE_TRACKING
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Rule, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import ForbidFragments, Match, drop
from kubenetlab.names import NODE_UPLINK

TABLE: Final = "kubenetlab-fault-mtu"
_TOO_BIG: Final = {
    4: Match("icmp code", "frag-needed"),
    6: Match("icmpv6 type", "packet-too-big"),
}
"""IP version → match of the message that a packet is too large for the next link."""


class Break(BreakOptions, frozen=True):
    """Options `node` and `size`.

    node: name of the node whose link has the smaller MTU.
    size: MTU in bytes, at least 1280 (the minimum of IPv6). Default: 1400.
    """

    node: str
    size: Annotated[int, Meta(ge=1280, le=9000)] = 1400

    def why_impossible(self, cluster: Cluster) -> str:
        if problem := unknown_node(cluster, self.node):
            return problem
        cni, views = pod_network(cluster)
        for view in views:
            if view.name == self.node:
                network = cni.network(view)
                version = view.families[0].version
                overheads = (outer.overhead_bytes(version) for outer in network.encapsulations)
                largest = network.mtu + max(overheads, default=0)
                if largest <= self.size:
                    return (
                        f"size {self.size}: packets between pods have at most {largest} bytes on "
                        "the fabric; expected a smaller size"
                    )
        return ""

    def spec(self) -> FaultSpec:
        return FaultSpec(
            fault="mtu",
            options={"node": self.node, "size": self.size},
            node=self.node,
            summary=f"the link of {self.node} has an MTU of {self.size} bytes, and ICMP messages "
            "about it are lost",
        )

    def objects(
        self, netns: str, desired: Sequence[Object], node: NodeView, network: PodNetwork
    ) -> Iterator[Object]:
        for obj in desired:
            is_uplink = isinstance(obj, Veth) and obj.name == NODE_UPLINK
            yield structs.replace(obj, mtu=self.size) if is_uplink else obj
        for family in node.families:
            nft = NFT_FAMILIES[family.version]
            yield Table(netns, nft, TABLE, f"fault mtu of {node.name}")
            lost = rule(_TOO_BIG[family.version], drop)
            # A tunnel that is a port of a bridge sends the message by the bridge.
            yield Chain(
                netns,
                nft,
                TABLE,
                "prerouting",
                (lost,),
                Hook("filter", "prerouting", BEFORE_TRACKING),
            )
            rules = (lost, *_rules(family.version, network.encapsulations))
            yield Chain(
                netns, nft, TABLE, "output", rules, Hook("filter", "output", BEFORE_TRACKING)
            )


def _rules(version: int, encapsulations: Iterable[Encapsulation]) -> Iterator[Rule]:
    """Yield the rules that forbid to cut outer packets."""
    for encapsulation in encapsulations:
        if encapsulation.port and version == 4:  # IPv6 packets are not cut on their way
            yield rule(Match("udp dport", str(encapsulation.port)), ForbidFragments())
