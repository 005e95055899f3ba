"""Admission of Node documents: settings for nodes that the Cluster document creates."""

from __future__ import annotations

from collections.abc import Collection

from kubenetlab.api.core import Node
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.text.decode import Finding


def settings_of(
    node: Node, document: JsonMapping, known: Collection[str]
) -> tuple[Resource, list[Finding]]:
    """Return the settings that a Node document has for its node, and its problems.

    known: names of the nodes of the cluster.
    """
    if node.name not in known:
        return node, [
            Finding(
                ("metadata", "name"),
                f'no node of this cluster is called "{node.name}"',
                hints=(f"it has: {', '.join(known)}",),
            )
        ]
    cidrs = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    taints = node.spec.taints if "taints" in (document.get("spec") or {}) else None
    meta = ObjectMeta(
        name=node.name, labels=node.metadata.labels, annotations=node.metadata.annotations
    )
    return NodeSettings(meta, taints, node.spec.unschedulable, cidrs), []
