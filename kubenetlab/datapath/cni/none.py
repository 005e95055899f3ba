"""none: no CNI plugin is installed.

Nodes are NotReady ("cni plugin not initialized"), ordinary pods stay Pending, pods with hostNetwork run. As in: a cluster made by
kubeadm, or by kind with disableDefaultCNI, before anything is applied to it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.lab import NetworkFacts
from kubenetlab.datapath.modes import ModeOptions, PodNetwork
from kubenetlab.datapath.view import NodeView, PodView
from kubenetlab.hoststate.object import Object


class Mode(ModeOptions, frozen=True):
    """No options."""

    facts = NetworkFacts(has_network=False)

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(node.mtu, node.cluster_cidrs)

    def node(self, node: NodeView) -> Iterator[Object]:
        return iter(())

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        return iter(())
