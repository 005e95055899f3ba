"""route: take the route of one node to the pods of another node away.

how=missing (default)
    The node has no route to the pods of the other node, as after an agent that did not see the new
    node, or a route that was deleted. Packets follow the default route to the router, which does
    not know pods and answers "destination unreachable". With BGP, a filter in bird.conf refuses the
    prefixes that the other node announces; the sessions stay established.
how=blackhole
    Instead of the route there is one that drops packets without an answer.

Connections in both directions fail: the other node's packets arrive, and the replies do not leave.
All other pairs of nodes are as before. In weave there is no route for each node, and in cilium with
tunnels a table of the eBPF programs takes the place of routes: both cannot have this fault.

How to diagnose:
    kubenetlab ping                                    one pair of nodes fails
    kubenetlab exec node:NODE -- ip route get ADDRESS  of a pod of the other node
    kubenetlab exec node:NODE -- birdc show route      with BGP; then `birdc show protocols all`
    kubenetlab diff                                    the missing routes, or the filter of BIRD
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from kubenetlab.api.config import Network
from kubenetlab.api.faults import FaultSpec
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.datapath.faults import BreakOptions, unknown_node
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.network import bird
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route

_MEANS = {
    "missing": "has no route to the pods of",
    "blackhole": "drops all packets to the pods of",
}
"""Value of `how` → middle of the fault's summary."""


class Break(BreakOptions, frozen=True):
    """Options `node`, `to` and `how`.

    node: name of the node that lacks the route.
    to: name of the node whose pods it does not reach.
    how: missing | blackhole. Default: missing.
    """

    node: str
    to: str
    how: Literal["missing", "blackhole"] = "missing"

    def why_impossible(self, cluster: Cluster) -> str:
        if problem := unknown_node(cluster, self.node) or unknown_node(cluster, self.to):
            return problem
        if self.node == self.to:
            return f"node and to are the same node {self.node}: its own pods need no such route"
        cni, views = pod_network(cluster)
        for view in views:
            if view.name == self.node:
                network, objects = cni.network(view), tuple(cni.node(view))
                if not network.tunnels and self._affected(objects, view):
                    return ""
        mode = cluster.config.networking.cni_mode[0]
        return (
            f"{self.node} has no route for the pods of {self.to} only: the CNI mode {mode}, with "
            "its options, finds the node of a pod in another way"
        )

    def spec(self) -> FaultSpec:
        return FaultSpec(
            fault="route",
            options={"node": self.node, "to": self.to, "how": self.how},
            node=self.node,
            summary=f"{self.node} {_MEANS[self.how]} {self.to}",
        )

    def objects(
        self, netns: str, desired: Sequence[Object], node: NodeView, network: PodNetwork
    ) -> Iterator[Object]:
        affected = self._affected(desired, node)
        kept = [
            obj for obj in desired if not isinstance(obj, Route) or obj.destination not in affected
        ]
        yield from bird.without_routes(kept, affected)
        if self.how == "blackhole":
            for destination in affected:
                yield Route(netns, destination, "", type="blackhole")

    def _affected(self, objects: Iterable[Object], node: NodeView) -> tuple[str, ...]:
        """Return the destinations of routes to pods of the other node, of the lab and of BIRD."""
        ranges = [
            ip.network(cidr)
            for peer in node.peers
            if peer.name == self.to
            for family in peer.families
            for cidr in (family.pod_cidr, *family.ranges)
        ]
        destinations = [obj.destination for obj in objects if isinstance(obj, Route)]
        destinations += bird.learned_routes(objects)
        return tuple(
            destination
            for destination in dict.fromkeys(destinations)
            if _is_in(ip.network(destination), ranges)
        )


def _is_in(network: Network, ranges: Iterable[Network]) -> bool:
    return any(
        network.version == range_.version
        and network.prefixlen >= range_.prefixlen
        and network.network_address in range_
        for range_ in ranges
    )
