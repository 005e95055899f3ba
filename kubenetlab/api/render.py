"""Objects as the API shows them: Kubernetes' documents, with nothing lost that a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.config import Networking
from kubenetlab.api.decode import without_nulls
from kubenetlab.api.meta import Resource, Unmodelled, seconds, timestamp
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
    "DaemonSet": {"status": {}, "status.desiredNumberScheduled": 0, "status.numberReady": 0},
    "Job": {"spec.backoffLimit": 6, "status": {}},
    "StatefulSet": {"spec.replicas": 1, "status": {}, "status.replicas": 0},
    "ReplicationController": {"spec.replicas": 1, "status": {}, "status.replicas": 0},
    "ReplicaSet": {"spec.replicas": 1, "status": {}, "status.replicas": 0},
    "Service": {
        "spec.type": "ClusterIP",
        "spec.internalTrafficPolicy": "Cluster",
        "spec.sessionAffinity": "None",
        "spec.ports[].protocol": "TCP",
    },
}
"""Kind → path → value: what the API server shows although nobody wrote it; `[]` stands for each entry of a list."""


_TIMES: Final = frozenset((
    "creationTimestamp", "deletionTimestamp", "startTime", "completionTime", "startedAt", "finishedAt", "timeAdded",
    "lastTransitionTime", "firstTimestamp", "lastTimestamp", "eventTime",
))  # fmt: skip
"""Fields that hold a time."""


def render(cluster: Cluster, obj: Resource, skew_s: float = 0.0) -> dict[str, Any]:
    """The object's document: what was given, with what the cluster has filled in or changed.

    `skew_s` is how far the time of day is ahead of the store's times; less than a second is not shown.
    """
    given = cluster.given.get((obj.kind, obj.namespace, obj.name))
    fields = given.document if given is not None else {}
    shown = _rendered(
        obj,
        {
            key: value
            for key, value in fields.items()
            if key not in ("apiVersion", "kind", "status")
        },
    )
    document = {"apiVersion": obj.api_version, "kind": obj.kind, **shown}
    for path, value in _SHOWN.get(obj.kind, {}).items():
        _show(document, path.split("."), value)
    return (
        document
        if abs(skew_s) < 1
        else {
            key: value if key == "spec" else _shifted(key, value, skew_s)
            for key, value in document.items()
        }
    )


def _shifted(key: str, value: Any, by_s: float) -> Any:
    """Return a field with every time in it moved."""
    if isinstance(value, dict):
        return {name: _shifted(name, item, by_s) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shifted(key, item, by_s) for item in value]
    return timestamp(seconds(value) + by_s) if key in _TIMES and isinstance(value, str) else value


def _show(document: dict[str, Any], path: list[str], value: Any) -> None:
    """Puts a value where the path leads, unless something is there, or nothing above it."""
    first, *rest = path
    name = first.removesuffix("[]")
    if not rest:
        document.setdefault(name, dict(value) if isinstance(value, dict) else value)
    elif name in document:
        for below in document[name] if first.endswith("[]") else (document[name],):
            _show(below, rest, value)


def _rendered(value: Any, given: Any) -> Any:
    """A value as a document. Where the lab knows a field, its own value counts, and a default is shown only when it was given;
    where it does not, what was given stays. Nulls stand for nothing, as in Kubernetes."""
    if not given:
        return msgspec.to_builtins(value)
    if isinstance(value, Struct):
        return _rendered_struct(value, given if isinstance(given, Mapping) else {})
    if isinstance(value, Mapping):
        below = given if isinstance(given, Mapping) else {}
        return {key: _rendered(item, below.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        entries = (
            given if isinstance(given, list) and len(given) == len(value) else [None] * len(value)
        )
        return [_rendered(item, entry) for item, entry in zip(value, entries, strict=True)]
    return msgspec.to_builtins(value)


def _rendered_struct(value: Struct, given: Mapping[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    known = _fields(type(value))
    for name, (attribute, default, is_modelled) in known.items():
        own = getattr(value, attribute)
        if is_modelled and (own != default or given.get(name) is not None):
            filled[name] = _rendered(own, given.get(name))
    kept = {
        name: without_nulls(item)
        for name, item in given.items()
        if item is not None and not (name in known and known[name][2])
    }
    order = [name for name in given if name in filled or name in kept]
    return {
        name: filled.get(name, kept.get(name))
        for name in (*order, *(name for name in filled if name not in given))
    }


@cache
def _fields(type_: type[Struct]) -> dict[str, tuple[str, Any, bool]]:
    """Kubernetes' name of each field → (ours, its default, whether the lab models it)."""
    fields = {}
    for field in structs.fields(type_):
        default = (
            field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        )
        fields[field.encode_name] = (field.name, default, field.type is not Unmodelled)
    return fields
