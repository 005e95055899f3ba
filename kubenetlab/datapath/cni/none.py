"""none: no CNI plugin is installed.

Nodes are NotReady with the message "cni plugin not initialized". Pods with hostNetwork run, all
other pods stay Pending.

As in: a cluster of kubeadm, or of kind with disableDefaultCNI, before a CNI plugin is applied.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.lab import NetworkFacts
from kubenetlab.datapath.modes import ModeOptions, PodNetwork
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object


class Mode(ModeOptions, frozen=True):
    """Options: none."""

    facts = NetworkFacts(has_network=False, has_gateway=False)

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(node.mtu, node.cluster_cidrs)

    def node(self, node: NodeView) -> Iterator[Object]:
        return iter(())

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        return iter(())
