"""Objects as the API shows them: Kubernetes' documents, with nothing lost that a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster


def render(cluster: Cluster, obj: Resource) -> dict[str, Any]:
    """The object's document: what was given, with what the cluster has filled in on top."""
    given = cluster.given.get((obj.kind, obj.namespace, obj.name), {})
    filled = msgspec.to_builtins(obj)
    return {
        "apiVersion": obj.api_version,
        "kind": obj.kind,
        **_overlay({key: value for key, value in given.items() if key != "status"}, filled),
    }


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
