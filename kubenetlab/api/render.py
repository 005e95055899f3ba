"""Objects as the API shows them: Kubernetes' documents, with nothing lost that a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from kubenetlab.api.config import Networking
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster

_SHOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "Cluster": {
        "nodes[].role": "control-plane",
        "networking": {},
        "networking.podSubnet": Networking().pod_subnet,
        "networking.serviceSubnet": Networking().service_subnet,
        "networking.dnsDomain": Networking().dns_domain,
    },
    "Deployment": {"spec.replicas": 1},
    "EndpointSlice": {"ports[].protocol": "TCP", "ports[].name": ""},
    "Event": {"type": "Normal", "count": 1},
    "Namespace": {"status": {}, "status.phase": "Active"},
    "Pod": {
        "spec.restartPolicy": "Always",
        "spec.dnsPolicy": "ClusterFirst",
        "status": {},
        "status.phase": "Pending",
        "status.containerStatuses[].ready": False,
        "status.containerStatuses[].restartCount": 0,
        "status.containerStatuses[].lastState": {},
    },
    "ReplicaSet": {"spec.replicas": 1, "status": {}, "status.replicas": 0},
    "Service": {
        "spec.type": "ClusterIP",
        "spec.internalTrafficPolicy": "Cluster",
        "spec.sessionAffinity": "None",
        "spec.ports[].protocol": "TCP",
    },
}
"""Kind → path → value: what the API server shows although nobody wrote it; `[]` stands for each entry of a list."""


def render(cluster: Cluster, obj: Resource) -> dict[str, Any]:
    """The object's document: what was given, with what the cluster has filled in on top."""
    given = cluster.given.get((obj.kind, obj.namespace, obj.name), {})
    filled = msgspec.to_builtins(obj)
    document = {
        "apiVersion": obj.api_version,
        "kind": obj.kind,
        **_overlay({key: value for key, value in given.items() if key != "status"}, filled),
    }
    for path, value in _SHOWN.get(obj.kind, {}).items():
        _show(document, path.split("."), value)
    return document


def _show(document: dict[str, Any], path: list[str], value: Any) -> None:
    """Puts a value where the path leads, unless something is there, or nothing above it."""
    first, *rest = path
    name = first.removesuffix("[]")
    if not rest:
        document.setdefault(name, dict(value) if isinstance(value, dict) else value)
    elif name in document:
        for below in document[name] if first.endswith("[]") else (document[name],):
            _show(below, rest, value)


def _overlay(base: Any, top: Any) -> Any:
    """`top` over `base`: mappings are merged, lists entry by entry when they are equally long, all else is replaced."""
    if isinstance(base, Mapping) and isinstance(top, Mapping):
        merged = dict(base)
        for key, value in top.items():
            merged[key] = _overlay(base[key], value) if key in base else value
        return merged
    if isinstance(base, list) and isinstance(top, list) and len(base) == len(top):
        return [_overlay(left, right) for left, right in zip(base, top, strict=True)]
    return top
