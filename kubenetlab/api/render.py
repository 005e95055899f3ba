"""Objects → documents as the API serves them, with every field that the user gave."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.config import Networking
from kubenetlab.api.json_types import JsonMapping, JsonObject, JsonValue
from kubenetlab.api.meta import Resource, Unmodelled, seconds, timestamp
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import without_nulls

_SHOWN_DEFAULTS: Final[Mapping[str, JsonMapping]] = {
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
"""Kind → path → default that the API server shows; `[]` means each entry of a list."""


_TIMES: Final = frozenset(
    (
        "creationTimestamp",
        "deletionTimestamp",
        "startTime",
        "completionTime",
        "startedAt",
        "finishedAt",
        "timeAdded",
        "lastTransitionTime",
        "firstTimestamp",
        "lastTimestamp",
        "eventTime",
    )
)
"""Names of fields that contain a time."""


def render(cluster: Cluster, obj: Resource, skew_s: float = 0.0) -> JsonObject:
    """Return the document of an object: the fields as given, updated by the cluster.

    skew_s: seconds by which the machine's time of day is ahead of the times in the store. Less
    than a second is ignored.
    """
    given = cluster.given.get((obj.kind, obj.namespace, obj.name))
    fields = given.document if given is not None else {}
    rendered = _render(
        obj,
        {
            key: value
            for key, value in fields.items()
            if key not in ("apiVersion", "kind", "status")
        },
    )
    document = {"apiVersion": obj.api_version, "kind": obj.document_kind(), **rendered}
    for path, value in _SHOWN_DEFAULTS.get(obj.kind, {}).items():
        _set_default(document, path.split("."), value)
    if abs(skew_s) < 1:
        return document
    return {
        key: value if key == "spec" else _shift_times(key, value, skew_s)
        for key, value in document.items()
    }


def _shift_times(key: str, value: JsonValue, by_s: float) -> JsonValue:
    """Return a field with all times in it shifted."""
    if isinstance(value, dict):
        return {name: _shift_times(name, item, by_s) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shift_times(key, item, by_s) for item in value]
    return timestamp(seconds(value) + by_s) if key in _TIMES and isinstance(value, str) else value


def _set_default(document: JsonObject, path: list[str], value: JsonValue) -> None:
    """Set the field at a path if it is missing and the field above it is not."""
    first, *rest = path
    name = first.removesuffix("[]")
    if not rest:
        document.setdefault(name, dict(value) if isinstance(value, dict) else value)
    elif name in document:
        for child in document[name] if first.endswith("[]") else (document[name],):
            _set_default(child, rest, value)


def _render(value: object, given: JsonValue) -> JsonValue:
    """Return a value as a document.

    A field that the lab models has the value in the store; a default is shown only if it was given.
    Every other field is shown as given. Nulls are left out, as in Kubernetes.
    """
    if not given:
        return msgspec.to_builtins(value)
    if isinstance(value, Struct):
        return _render_struct(value, given if isinstance(given, Mapping) else {})
    if isinstance(value, Mapping):
        given_items = given if isinstance(given, Mapping) else {}
        return {key: _render(item, given_items.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        entries = (
            given if isinstance(given, list) and len(given) == len(value) else [None] * len(value)
        )
        return [_render(item, entry) for item, entry in zip(value, entries, strict=True)]
    return msgspec.to_builtins(value)


def _render_struct(value: Struct, given: JsonMapping) -> JsonObject:
    modelled: JsonObject = {}
    fields = _fields(type(value))
    for name, (attribute, default, is_modelled) in fields.items():
        current = getattr(value, attribute)
        if is_modelled and (current != default or given.get(name) is not None):
            modelled[name] = _render(current, given.get(name))
    others = {
        name: without_nulls(item)
        for name, item in given.items()
        if item is not None and not (name in fields and fields[name][2])
    }
    given_order = [name for name in given if name in modelled or name in others]
    added = [name for name in modelled if name not in given]
    return {name: modelled.get(name, others.get(name)) for name in (*given_order, *added)}


@cache
def _fields(type_: type[Struct]) -> dict[str, tuple[str, object, bool]]:
    """Return Kubernetes' name of each field → (attribute, default, True if the lab models it)."""
    fields = {}
    for field in structs.fields(type_):
        default = (
            field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        )
        fields[field.encode_name] = (field.name, default, field.type is not Unmodelled)
    return fields
