"""describe of workloads: replicas, update strategy, pod template and pods.

Source: k8s.io/kubectl pkg/describe/describe.go (1.33).
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.cli.describe.columns import columns, header
from kubenetlab.cli.describe.fields import (
    print_conditions,
    print_field,
    print_heading,
    print_mapping,
    print_values,
)
from kubenetlab.cli.terminal.printing import print_table

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client

WORKLOADS: Final = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet")


def describe_workload(client: Client, document: JsonMapping) -> None:
    """Print the part between a workload's metadata and its events."""
    spec = document["spec"]
    print_values("Selector", _selector(spec["selector"]))
    print_field("Replicas" if document["kind"] != "DaemonSet" else "Nodes", _replicas(document))
    for name, value in _strategy(document).items():
        print_field(name, value)
    print_heading("Pod Template")
    describe_template(spec["template"])
    if document.get("status", {}).get("conditions"):
        print_conditions(document)
    if document["kind"] == "Deployment":
        _replica_sets(client, document)
    describe_pods(client, document)


def _selector(selector: JsonMapping) -> list[str]:
    """Return the parts of a selector in the syntax of `-l`."""
    parts = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", ()):
        key, values = expression["key"], ",".join(expression.get("values", ()))
        words = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        parts.append(words[expression["operator"]])
    return parts


def _replicas(document: JsonMapping) -> str:
    spec, status = document["spec"], document.get("status", {})
    desired = spec.get("replicas", 1)
    counts: tuple[tuple[int, str], ...]
    match document["kind"]:
        case "Deployment":
            counts = (
                (desired, "desired"),
                (status.get("updatedReplicas", 0), "updated"),
                (status.get("replicas", 0), "total"),
                (status.get("availableReplicas", 0), "available"),
                (status.get("unavailableReplicas", 0), "unavailable"),
            )
        case "DaemonSet":
            counts = (
                (status.get("desiredNumberScheduled", 0), "desired"),
                (status.get("currentNumberScheduled", 0), "current"),
                (status.get("updatedNumberScheduled", 0), "up to date"),
                (status.get("numberAvailable", 0), "available"),
                (status.get("numberMisscheduled", 0), "misscheduled"),
            )
        case _:
            counts = (
                (desired, "desired"),
                (status.get("replicas", 0), "current"),
                (status.get("readyReplicas", 0), "ready"),
            )
    return " | ".join(f"{number} {word}" for number, word in counts)


def _strategy(document: JsonMapping) -> JsonObject:
    """Return the update strategy as fields, with Kubernetes' defaults."""
    spec = document["spec"]
    match document["kind"]:
        case "Deployment":
            strategy = spec.get("strategy", {})
            rolling = strategy.get("rollingUpdate") or {}
            limits = (
                f"{rolling.get('maxUnavailable', '25%')} max unavailable, "
                f"{rolling.get('maxSurge', '25%')} max surge"
            )
            is_rolling = strategy.get("type", "RollingUpdate") == "RollingUpdate"
            paused = (
                {"Paused": "yes: a changed template is not rolled out"}
                if spec.get("paused")
                else {}
            )
            return {
                "Strategy": f"RollingUpdate, {limits}" if is_rolling else strategy["type"],
                **paused,
            }
        case "StatefulSet" | "DaemonSet":
            return {"Update Strategy": spec.get("updateStrategy", {}).get("type", "RollingUpdate")}
    return {}


def describe_template(template: JsonMapping) -> None:
    """Print a pod template."""
    meta = template.get("metadata", {})
    for name, field in (("Labels", "labels"), ("Annotations", "annotations")):
        if meta.get(field):
            print_mapping(name, meta[field], 1)
    for title, field in (("Init Containers", "initContainers"), ("Containers", "containers")):
        if template["spec"].get(field):
            print_heading(title, 1)
        for container in template["spec"].get(field, ()):
            print_heading(container["name"], 2)
            print_field("Image", container.get("image", ""), 3)
            ports = [
                f"{port['containerPort']}/{port.get('protocol', 'TCP')}"
                for port in container.get("ports", ())
            ]
            print_field("Ports", ", ".join(ports) or "<none>", 3)
            for name, key in (("Command", "command"), ("Args", "args")):
                if container.get(key):
                    print_field(name, shlex.join(container[key]), 3)


def _replica_sets(client: Client, deployment: JsonMapping) -> None:
    """Print the ReplicaSet of the current template, and older ones that still have pods."""
    owned = [
        item
        for item in _objects_beside(client, "replicasets", deployment)
        if _is_owned(item, deployment)
    ]
    newest = max(owned, key=_revision, default=None)
    old = [
        item for item in owned if item is not newest and item.get("status", {}).get("replicas", 0)
    ]
    print_field("Old ReplicaSets", ", ".join(map(_replicas_created, old)) or "<none>")
    print_field("New ReplicaSet", _replicas_created(newest) if newest is not None else "<none>")


def _replicas_created(replica_set: JsonMapping) -> str:
    current, desired = (
        replica_set.get("status", {}).get("replicas", 0),
        replica_set["spec"].get("replicas", 1),
    )
    return f"{replica_set['metadata']['name']} ({current}/{desired} replicas created)"


def _revision(replica_set: JsonMapping) -> int:
    from kubenetlab.api.apps import REVISION_ANNOTATION

    return int(replica_set["metadata"].get("annotations", {}).get(REVISION_ANNOTATION, 0))


def describe_pods(client: Client, document: JsonMapping) -> None:
    """Print the pods of a workload, including those that its ReplicaSets own."""
    kind, meta = document["kind"], document["metadata"]
    inspected = client.inspect()["pods"]
    names = {
        pod["name"]
        for pod in inspected
        if pod["namespace"] == meta["namespace"] and pod["workload"] == f"{kind}/{meta['name']}"
    }
    pods = [
        pod
        for pod in _objects_beside(client, "pods", document)
        if pod["metadata"]["name"] in names or _is_owned(pod, document)
    ]
    if not pods:
        print_field("Pods", "<none>")
    else:
        print_heading("Pods")
        headings = ("NAME", "READY", "STATUS", "RESTARTS", "IP", "NODE")
        indices = [
            index
            for index, heading in enumerate(header("Pod", is_wide=True))
            if heading in headings
        ]
        rows = [
            [
                cell
                for index, cell in enumerate(columns("Pod", pod, is_wide=True))
                if index in indices
            ]
            for pod in pods
        ]
        print_table(headings, rows, indent=2)


def _objects_beside(client: Client, plural: str, document: JsonMapping) -> list[JsonObject]:
    """Return the objects of a kind in the namespace of `document`."""
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.lab.paths import kind_path

    kind = find_kind(plural)
    assert kind is not None
    items: list[JsonObject] = client.get(kind_path(kind, document["metadata"]["namespace"]))[
        "items"
    ]
    return items


def _is_owned(item: JsonMapping, owner: JsonMapping) -> bool:
    return any(
        reference["uid"] == owner["metadata"]["uid"]
        for reference in item["metadata"].get("ownerReferences", ())
    )
