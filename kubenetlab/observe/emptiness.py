"""Reasons why a Service has no ready endpoint, found by its selector and its ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.errors import did_you_mean


def explain_empty(service: JsonMapping, pods: Iterable[JsonMapping]) -> str:
    """Return the reason in a few words: no pod matches, none is ready, or a named port is missing.

    service, pods: documents of the Service and of the pods of its namespace. Empty without a
    reason.
    """
    selector: Mapping[str, str] = service["spec"].get("selector", {})
    if not selector:
        return "it has no selector: its EndpointSlices are created manually"
    candidates = [
        pod
        for pod in pods
        if pod["metadata"].get("namespace") == service["metadata"].get("namespace")
    ]
    matching = [
        pod for pod in candidates if selector.items() <= pod["metadata"].get("labels", {}).items()
    ]
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    if not matching:
        return f"no pod has the labels {labels}{_suggested_label(selector, candidates)}"
    count = "1 pod matches" if len(matching) == 1 else f"{len(matching)} pods match"
    ready = [pod for pod in matching if _is_ready(pod)]
    if not ready:
        return f"{count} {labels}, and {'it is not' if len(matching) == 1 else 'none is'} ready"
    for port in service["spec"].get("ports", ()):
        target, protocol = port.get("targetPort"), port.get("protocol", "TCP")
        if isinstance(target, str):
            names = {name for pod in ready for name in _port_names(pod, protocol)}
            if target not in names:
                known = f"; {protocol} ports: {', '.join(sorted(names))}" if names else ""
                return (
                    f"{count} {labels}, and no container has a {protocol} port of the name "
                    f"{target}{did_you_mean(target, names) or known}"
                )
    return ""


def _suggested_label(selector: Mapping[str, str], pods: Iterable[JsonMapping]) -> str:
    """Return a suggestion: a label value of some pod that is similar to the selector's."""
    for key, value in selector.items():
        values = {
            labels[key] for pod in pods if key in (labels := pod["metadata"].get("labels", {}))
        }
        if value not in values and (
            guess := did_you_mean(
                f"{key}={value}", [f"{key}={similar}" for similar in sorted(values)]
            )
        ):
            return guess
    return ""


def _is_ready(pod: JsonMapping) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", ())
    )


def _port_names(pod: JsonMapping, protocol: str) -> Iterable[str]:
    for container in (*pod["spec"].get("initContainers", ()), *pod["spec"].get("containers", ())):
        for port in container.get("ports", ()):
            if port.get("name") and port.get("protocol", "TCP") == protocol:
                yield port["name"]
