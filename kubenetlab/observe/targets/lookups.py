"""Lookups by name in the document of `inspect`: pods, Services and workloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.targets.grammar import PREFIX_OF, Target

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedPod, InspectedService, Inspection


def service_named(seen: Inspection, namespace: str, name: str) -> InspectedService | None:
    """Return the entry of a Service in `inspect`; None when there is no such Service."""
    return next(
        (
            entry
            for entry in seen["services"]
            if (entry["namespace"], entry["name"]) == (namespace, name)
        ),
        None,
    )


def pod_named(seen: Inspection, namespace: str, name: str) -> InspectedPod | None:
    """Return the entry of a pod in `inspect`; None when there is no such pod."""
    return next(
        (pod for pod in seen["pods"] if (pod["namespace"], pod["name"]) == (namespace, name)), None
    )


def pods_called(target: Target, seen: Inspection, namespaces: Sequence[str]) -> list[Target]:
    """Return a target for each pod with the target's name in one of the namespaces."""
    matching = (
        namespace for namespace in namespaces if pod_named(seen, namespace, target.name) is not None
    )
    return [structs.replace(target, kind="pod", namespace=namespace) for namespace in matching]


def workloads_called(target: Target, seen: Inspection, namespaces: Sequence[str]) -> list[Target]:
    """Return a target for each workload of any kind with this name and at least one pod."""
    existing = {(pod["namespace"], pod["workload"]) for pod in seen["pods"]}
    return [
        structs.replace(target, kind=PREFIX_OF[kind], namespace=namespace)
        for namespace in namespaces
        for kind in PREFIX_OF
        if (namespace, f"{kind}/{target.name}") in existing
    ]


def only(target: Target, candidates: Sequence[Target]) -> Target:
    """Return the only candidate.

    Raises UsageError with the exact form of each candidate when there are several.
    """
    if len(candidates) > 1:
        raise UsageError(
            f"{target.bare} is ambiguous; use one of: {', '.join(map(str, candidates))}"
        )
    return candidates[0]


def exists(target: Target, seen: Inspection) -> bool:
    """Return True for a pod, node, Service or workload (with pods) of the lab."""
    match target.kind:
        case "pod":
            return pod_named(seen, target.namespace, target.name) is not None
        case "svc":
            return service_named(seen, target.namespace, target.name) is not None
        case "node":
            return any(node["name"] == target.name for node in seen["nodes"])
    return target.bare in workloads_called(target.bare, seen, (target.namespace,))
