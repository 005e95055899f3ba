"""cni-agent: stop the agent of the CNI plugin on one node.

The process of the DaemonSet's pod on the node ends: kube-flannel-ds, calico-node, weave-net, cilium
or kube-router. The kernel of the node keeps all that the agent has written, so existing connections
and new ones between existing pods work. The node misses every change from then on: it gets no
routes, tunnels or BGP sessions to new nodes, and other nodes that need its BGP session learn no
routes to its new ranges. When the agent is back, it brings the node up to date at once.

The agents of calico, weave, cilium and kube-router also enforce network policies. The node keeps
their rules as they are: new and changed policies, labels, and addresses of pods do not count there,
neither for the connections that they allow nor for those that they deny. With other plugins another
component enforces policies, which does not stop.

A new pod on the node depends on the plugin:
    flannel, kube-router   it works: the CNI programs need no agent; with kube-router no policy
                           isolates it
    calico                 it gets an address, but its node has no route to it: it is never Ready
    weave, cilium          it stays in ContainerCreating: the CNI program calls the agent

BIRD, which runs in the pod of calico-node or kube-router in a real cluster, goes on with its old
configuration here. In a real cluster its peers keep the routes of the node for the time of a
graceful restart (120 s).

How to diagnose:
    kubenetlab get pods -A               state of its pod; then its log
    kubenetlab diff                      routes and tunnels that the node lacks
    kubenetlab ping                      pods of the node, and pods of nodes that are newer

Change something first, for example add a node to the Cluster document and run `kubenetlab up`.
Deleting the DaemonSet, or giving it a node selector that the node does not match, has the same
effect, without a fault.
"""

from __future__ import annotations

from kubenetlab.api.faults import FaultSpec, StoppedPods
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes.ipam import network
from kubenetlab.datapath.faults import BreakOptions, unknown_node


class Break(BreakOptions, frozen=True):
    """Option `node`.

    node: name of the node whose agent stops.
    """

    is_of_plugin = True

    node: str

    def why_impossible(self, cluster: Cluster) -> str:
        if network(cluster).agent is None:
            mode = cluster.config.networking.cni_mode[0]
            return (
                f"this lab has no agents: the CNI mode {mode} has no program on nodes; flannel, "
                "calico, weave, cilium and kube-router have"
            )
        return unknown_node(cluster, self.node)

    def spec(self) -> FaultSpec:
        return FaultSpec(
            fault="cni-agent",
            options={"node": self.node},
            node=self.node,
            summary=f"the agent of the CNI plugin on {self.node} is stopped: "
            "the node keeps its state, and misses every change",
        )

    def stopped_pods(self, cluster: Cluster) -> tuple[StoppedPods, ...]:
        agent = network(cluster).agent
        return (StoppedPods(self.node, agent.namespace, agent.labels),) if agent is not None else ()
