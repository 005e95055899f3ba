"""overlay: drop the packets of the tunnels of one node.

A packet filter between the nodes drops the datagrams that carry packets between pods, as a security
group or a firewall does that admits everything but the UDP port of the overlay. Pods of the node
reach one another and addresses outside of the cluster, and the node reaches all other nodes, but
no packet passes between its pods and the pods of other nodes. Nodes stay Ready.

Here the packet filter is the table kubenetlab-fault-overlay on the node, with one chain for each
direction of eth0. It drops UDP to the port of the CNI mode (flannel and cilium: 8472, calico: 4789,
weave: 6784; with WireGuard: 51820, and 51821 for IPv6), or IP protocol 4 for calico's ipip. Modes
without tunnels cannot have this fault.

How to diagnose:
    kubenetlab ping                             pods of the node and pods of other nodes
    kubenetlab ping node:NODE node:OTHER        the fabric itself works
    kubenetlab exec node:NODE -- tcpdump -ni eth0 udp
    kubenetlab diff                             the table that a healthy node does not have
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kubenetlab.api.faults import FaultSpec
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.datapath.faults import BreakOptions, unknown_node
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.network.dropped_packets import drop_at_uplink
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables.statements import Match

TABLE: Final = "kubenetlab-fault-overlay"


class Break(BreakOptions, frozen=True):
    """Option `node`.

    node: name of the node whose tunnels are cut.
    """

    is_of_plugin = True

    node: str

    def why_impossible(self, cluster: Cluster) -> str:
        if problem := unknown_node(cluster, self.node):
            return problem
        cni, views = pod_network(cluster)
        if any(cni.network(view).encapsulations for view in views):
            return ""
        mode = cluster.config.networking.cni_mode[0]
        return (
            f"this lab has no tunnels: the CNI mode {mode}, with its options, routes packets "
            "between nodes; `kubenetlab explain overlay` names modes with tunnels"
        )

    def spec(self) -> FaultSpec:
        return FaultSpec(
            fault="overlay",
            options={"node": self.node},
            node=self.node,
            summary=f"the packets of the tunnels of {self.node} are dropped",
        )

    def objects(
        self, netns: str, desired: Sequence[Object], node: NodeView, network: PodNetwork
    ) -> Iterable[Object]:
        yield from desired
        if not network.encapsulations:
            return
        tunnels = [_match(each) for each in network.encapsulations]
        yield from drop_at_uplink(node, TABLE, f"fault overlay of {node.name}", tunnels)


def _match(encapsulation: Encapsulation) -> Match:
    """Return what selects the outer packets of tunnels."""
    if encapsulation.port:
        return Match("udp dport", str(encapsulation.port))
    return Match("meta l4proto", encapsulation.protocol)
