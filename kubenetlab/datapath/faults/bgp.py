"""bgp: block the BGP sessions of one node.

A packet filter drops TCP port 179 in both directions, like a firewall between routers whose rules
do not allow a new node yet. BIRD runs on. When nothing has been heard for the hold time (9 s), the
sessions of the node go down, and both ends withdraw the routes that they have learned: the node
has no route to pods of other nodes any more, and other nodes have none to its pods. Until then all
packets pass. Graceful restart (RFC 4724) does not keep the routes: it is for a peer whose
connection ends, not for one that is silent until the hold time is over.

Here the packet filter is the table kubenetlab-fault-bgp on the node, with one chain for each
direction of eth0. Modes without BGP cannot have this fault.

How to diagnose:
    kubenetlab exec node:NODE -- birdc show protocols   state of the sessions: Active or Connect
    kubenetlab exec node:NODE -- ip route               no routes with `proto bird`
    kubenetlab ping                                     pods of the node and pods of other nodes
    kubenetlab diff                                     the packet filter, and the routes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab import names
from kubenetlab.api.faults import FaultSpec
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.faults import BreakOptions, unknown_node
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.network import bird
from kubenetlab.datapath.network.dropped_packets import drop_at_uplink
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables.statements import Match

TABLE: Final = "kubenetlab-fault-bgp"
_PORT: Final = "179"


class Break(BreakOptions, frozen=True):
    """Option `node`.

    node: name of the node whose BGP sessions are blocked.
    """

    is_of_plugin = True

    node: str

    def why_impossible(self, cluster: Cluster) -> str:
        if problem := unknown_node(cluster, self.node):
            return problem
        cni, views = pod_network(cluster)
        for view in views:
            if view.name == self.node and any(map(bird.is_bird, cni.node(view))):
                return ""
        mode = cluster.config.networking.cni_mode[0]
        return (
            f"this lab has no BGP: the CNI mode {mode}, with its options, runs no BIRD; "
            "calico (backend bgp) and kube-router do"
        )

    def spec(self) -> FaultSpec:
        return FaultSpec(
            fault="bgp",
            options={"node": self.node},
            node=self.node,
            summary=f"the BGP sessions of {self.node} are blocked",
        )

    def namespaces(self, node: NodeView) -> tuple[str, ...]:
        others = tuple(names.node_netns(peer.name) for peer in node.peers)
        return (node.netns, *others, *(names.ROUTERS[: node.routers] if node.router_as else ()))

    def objects(
        self, netns: str, desired: Sequence[Object], node: NodeView, network: PodNetwork
    ) -> Iterator[Object]:
        """Yield the packet filter on the node; no node waits for routes while the fault lasts."""
        yield from bird.expecting_no_routes(desired)
        if netns != node.netns:
            return
        ports = [Match(f"tcp {end}", _PORT) for end in ("sport", "dport")]
        yield from drop_at_uplink(node, TABLE, f"fault bgp of {node.name}", ports)
