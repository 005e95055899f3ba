"""Snapshots of network policies, for agents of CNI plugins that are stopped and enforce them."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from msgspec import structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node, NodeStatus
from kubenetlab.api.kinds import POLICY_KINDS, POLICY_PEER_KINDS
from kubenetlab.api.lab import Attachment, Decisions
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.pods import Pod, PodStatus
from kubenetlab.api.store import Cluster

SNAPSHOT_KINDS: Final[tuple[type[Resource], ...]] = (
    *POLICY_KINDS,
    *POLICY_PEER_KINDS,
    Namespace,
    Node,
    Pod,
    Attachment,
    ClusterConfig,
    Decisions,
)
"""Kinds from whose objects the rules of policies follow."""


def policy_snapshot(cluster: Cluster) -> PolicySnapshot | None:
    """Return a snapshot of the policies, and of what they select; None without policies."""
    if not any(map(cluster.by_key, POLICY_KINDS)):
        return None
    objects = tuple(
        (kind.kind, msgspec.to_builtins(_reduced(obj)))
        for kind in SNAPSHOT_KINDS
        for obj in cluster.all(kind)
    )
    digest = hashlib.sha256(msgspec.json.encode(objects)).hexdigest()[:12]
    return PolicySnapshot(ObjectMeta(name=digest), objects)


def _reduced(obj: Resource) -> Resource:
    """Return a pod or node without the parts that policies do not read."""
    if isinstance(obj, Pod):
        containers = tuple(
            type(container)(container.name, ports=container.ports)
            for container in obj.spec.long_running_containers
        )
        spec = structs.replace(obj.spec, containers=containers, init_containers=())
        status = PodStatus(obj.status.phase, pod_ips=obj.status.pod_ips)
        return structs.replace(obj, metadata=_meta(obj), spec=spec, status=status)
    if isinstance(obj, Node):
        status_of_node = NodeStatus(addresses=obj.status.addresses)
        return structs.replace(obj, metadata=_meta(obj), status=status_of_node)
    return obj


def _meta(obj: Resource) -> ObjectMeta:
    meta = obj.metadata
    return ObjectMeta(name=meta.name, namespace=meta.namespace, labels=meta.labels, uid=meta.uid)
