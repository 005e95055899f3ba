"""Network policies as agents of CNI plugins last saw them."""

from __future__ import annotations

from kubenetlab.api.internal import Internal
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import ObjectMeta


class PolicySnapshot(Internal, frozen=True):
    """Objects of the cluster from which the rules of network policies followed at some time.

    All agents that were stopped at that time share it. Its name is a digest of the objects.
    """

    kind = "PolicySnapshot"
    plural = "policysnapshots"
    is_namespaced = False

    metadata: ObjectMeta
    objects: tuple[tuple[str, JsonMapping], ...] = ()
    """(kind, object) of policies, pods, namespaces, nodes, and of the lab's configuration."""
