"""Objects of Kubernetes and of the lab, as immutable values, and how manifests are read.

The names in `__all__` are provisional (docs/api.md). They are imported at their first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers it is True; importing `typing` would take time

if TYPE_CHECKING:
    from kubenetlab.api.apps import (
        DaemonSet,
        Deployment,
        ReplicaSet,
        ReplicationController,
        StatefulSet,
    )
    from kubenetlab.api.batch import Job
    from kubenetlab.api.config import ClusterConfig
    from kubenetlab.api.core import Event, Namespace, Node, Service
    from kubenetlab.api.discovery import Endpoints, EndpointSlice
    from kubenetlab.api.environment import ConfigMap, Secret
    from kubenetlab.api.lab import Decisions
    from kubenetlab.api.manifests.load import LoadedManifests, ManifestObject, load_documents
    from kubenetlab.api.meta import Resource
    from kubenetlab.api.object_map import Changes, Cursor
    from kubenetlab.api.pods import Pod
    from kubenetlab.api.store import Cluster
    from kubenetlab.api.text.decode import Finding
    from kubenetlab.api.text.documents import Document, read_documents

__all__ = [
    "Changes",
    "Cluster",
    "ClusterConfig",
    "ConfigMap",
    "Cursor",
    "DaemonSet",
    "Decisions",
    "Deployment",
    "Document",
    "EndpointSlice",
    "Endpoints",
    "Event",
    "Finding",
    "Job",
    "LoadedManifests",
    "ManifestObject",
    "Namespace",
    "Node",
    "Pod",
    "ReplicaSet",
    "ReplicationController",
    "Resource",
    "Secret",
    "Service",
    "StatefulSet",
    "load_documents",
    "read_documents",
]
_MODULES = {
    "Changes": "object_map",
    "Cluster": "store",
    "ClusterConfig": "config",
    "ConfigMap": "environment",
    "Cursor": "object_map",
    "DaemonSet": "apps",
    "Decisions": "lab",
    "Deployment": "apps",
    "Document": "text.documents",
    "EndpointSlice": "discovery",
    "Endpoints": "discovery",
    "Event": "core",
    "Finding": "text.decode",
    "Job": "batch",
    "LoadedManifests": "manifests.load",
    "ManifestObject": "manifests.load",
    "Namespace": "core",
    "Node": "core",
    "Pod": "pods",
    "ReplicaSet": "apps",
    "ReplicationController": "apps",
    "Resource": "meta",
    "Secret": "environment",
    "Service": "core",
    "StatefulSet": "apps",
    "load_documents": "manifests.load",
    "read_documents": "text.documents",
}
"""Public name → module that defines it."""

if not TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> object:
        """Import a public name from the module that defines it."""
        from kubenetlab.lazy import import_name

        return import_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
