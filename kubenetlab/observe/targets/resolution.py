"""Targets resolved in a running lab: pods, nodes, hosts and Services.

`seen` is the document of `inspect` in every function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, structs

from kubenetlab.errors import UsageError, did_you_mean
from kubenetlab.observe.targets.grammar import (
    DEFAULT_NAMESPACE,
    EVERY_NODE,
    KUBECTL_KINDS,
    NAMESPACE,
    WORKLOADS,
    Target,
    parse,
    pod_title,
)
from kubenetlab.observe.targets.locations import (
    Location,
    node_or_host_location,
    places,
    pod_location,
)
from kubenetlab.observe.targets.lookups import (
    exists,
    only,
    pod_named,
    service_named,
    workloads_called,
)
from kubenetlab.observe.targets.suggestions import suggest_similar

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedHost, InspectedPod, Inspection

_HOSTS: Final = ("node", "ext", "fabric")
"""Kinds of targets that are hosts."""
_NAMED_PODS: Final = 5
"""Maximum number of pods that a message lists."""

_ENDED = ("Succeeded", "Failed")
"""Phases of pods that have ended."""


def read(text: str, seen: Inspection, namespace: str | None = None) -> Target:
    """Parse a target and decide what `svc/web` means.

    It is the Service `web`, or the pod `web` in the namespace `svc` when only that pod exists.
    Raises UsageError for a text that cannot be parsed, and when both exist.
    """
    target = parse(text, namespace)
    first, slash, _ = text.partition("/")
    if not slash or first not in KUBECTL_KINDS:
        return target
    pod = structs.replace(target, kind="pod", namespace=first)
    if pod_named(seen, first, target.name) is None:
        return target
    if exists(target, seen):
        raise UsageError(f"{text} is ambiguous; use one of: {target}, {pod}")
    return pod


def source_target(target: Target, seen: Inspection) -> Target:
    """Resolve a source, or a place to run a command in.

    A bare name is a pod, else a workload; an address is the pod, node or host that owns it.
    Raises UsageError for targets that run nothing, such as a Service, and for targets with a port.
    """
    if not target.scheme and target.kind == "ip":
        target = _owner(target, seen)
    elif target.kind == "name" and not target.scheme:
        target = _dotted(target, seen)
    if target.kind not in ("word", "pod", *_HOSTS, "each", *WORKLOADS):
        raise UsageError(_why_no_place(target, seen))
    if not target.is_bare:
        raise UsageError(f"{target}: a source has no port; use {target.bare}")
    if target.kind != "word":
        return target
    namespace = target.namespace or DEFAULT_NAMESPACE
    pod = Target("pod", namespace, target.name)
    if pod_named(seen, namespace, target.name) is not None:
        return pod
    workloads = workloads_called(target, seen, (namespace,))
    return only(target, workloads) if workloads else pod


def pod_of(target: Target, seen: Inspection) -> tuple[str, str]:
    """Return (namespace, name) of the pod, running or not.

    Raises UsageError when there is no such pod.
    """
    target = source_target(target, seen)
    if target.kind in WORKLOADS:
        pod = _one_of(target, seen, must_run=False)
        return pod["namespace"], pod["name"]
    if target.kind != "pod":
        raise UsageError(f"{target}: expected a pod")
    if pod_named(seen, target.namespace, target.name) is None:
        raise UsageError(
            f"there is no pod {target.namespace}/{target.name}{suggest_similar(target.name, seen)}"
        )
    return target.namespace, target.name


def resolve(target: Target, seen: Inspection, *, is_destination: bool = False) -> Location:
    """Return the running pod, node or host that a target names.

    is_destination: the target may have a port, and messages also suggest Services.
    Raises UsageError when there is no such place, or it does not run.
    """
    target = source_target(target.bare if is_destination else target, seen)
    if target.kind == "pod":
        pod = pod_named(seen, target.namespace, target.name)
        if pod is None:
            similar = suggest_similar(target.name, seen, with_services=is_destination)
            raise UsageError(f"there is no pod {target.namespace}/{target.name}{similar}")
        return _running(pod_location(pod))
    if target.kind in WORKLOADS:
        return pod_location(_one_of(target, seen))
    if target.kind == "each":
        raise UsageError(f"{target}: expected one pod, node or host; each: is several pods")
    names = [entry["name"] for entry in _hosts_of(target.kind, seen)]
    if target.name not in names:
        raise UsageError(
            f"there is no {target.kind}:{target.name}{did_you_mean(target.name, names)}; "
            f"known: {', '.join(names) or 'none'}"
        )
    return _running(_place_named(target, seen))


def named_places(target: Target, seen: Inspection) -> list[Location]:
    """Return every place that a target names; for `each:Kind/ns/name`, every running pod.

    `each:Namespace/ns` leaves out the pods with hostNetwork, whose network is that of their node.

    Raises UsageError when there is none, and for a pod of `each:` that does not run although it has
    not ended.
    """
    target = source_target(target, seen)
    if target.kind != "each":
        return [resolve(target, seen)]
    kind, _, name = target.name.partition("/")
    is_namespace = kind == NAMESPACE
    pods = [
        pod
        for pod in seen["pods"]
        if (
            pod["namespace"] == name and not pod["host_network"]
            if is_namespace
            else (pod["namespace"], pod["workload"]) == (target.namespace, target.name)
        )
    ]
    running = [pod_location(pod) for pod in pods if pod["pid"]]
    group = (
        f"namespace {name}" if is_namespace else f"{target.name} in namespace {target.namespace}"
    )
    if not running:
        raise UsageError(f"{group} has no pod that runs")
    waiting = [pod["name"] for pod in pods if not pod["pid"] and pod.get("phase") not in _ENDED]
    if waiting:
        names = ", ".join(waiting[:_NAMED_PODS]) + (
            f" and {len(waiting) - _NAMED_PODS} more" if len(waiting) > _NAMED_PODS else ""
        )
        raise UsageError(
            f"{len(waiting)} of {len(pods)} pods of {group} do not run: {names}; "
            f"see: kubenetlab get pods -n {name if is_namespace else target.namespace}"
        )
    return running


class NodePort(Struct, frozen=True):
    """Node port of a Service at one node."""

    title: str
    addresses: tuple[str, ...]
    port: int


def node_ports(
    target: Target, seen: Inspection, port: int | None, protocol: str = "TCP"
) -> list[NodePort]:
    """Return the node port that `nodeport:node/ns/name` means, for each of the named nodes.

    port: the Service's port or its node port; None for the first port of the protocol.
    Raises UsageError when there is no such node, Service or port.
    """
    node, _, name = target.name.partition("/")
    nodes = [entry for entry in seen["nodes"] if node in (EVERY_NODE, entry["name"])]
    if not nodes:
        names = [entry["name"] for entry in seen["nodes"]]
        raise UsageError(
            f"there is no node:{node}{did_you_mean(node, names)}; known: {', '.join(names)}"
        )
    service = service_named(seen, target.namespace, name)
    if service is None:
        raise UsageError(f"there is no Service {target.namespace}/{name}")
    exposed = [entry for entry in service["ports"] if entry["node_port"]]
    matching = [
        entry
        for entry in exposed
        if entry["protocol"] == protocol and port in (None, entry["port"], entry["node_port"])
    ]
    if not matching:
        known = (
            ", ".join(
                f"{entry['port']}:{entry['node_port']}/{entry['protocol']}" for entry in exposed
            )
            or "none"
        )
        raise UsageError(
            f"Service {target.namespace}/{name} has no node port for "
            f"{port or 'any port'}/{protocol}; it has {known}"
        )
    node_port = matching[0]["node_port"] or 0
    return [
        NodePort(
            f"nodeport:{entry['name']}/{target.namespace}/{name}",
            tuple(entry["addresses"]),
            node_port,
        )
        for entry in nodes
    ]


def _place_named(target: Target, seen: Inspection) -> Location:
    """Return the location of an existing node, external host or router."""
    kind: Literal["node", "ext", "fabric"] = (
        "node" if target.kind == "node" else "ext" if target.kind == "ext" else "fabric"
    )
    entries = _hosts_of(kind, seen)
    return node_or_host_location(
        kind, next(entry for entry in entries if entry["name"] == target.name)
    )


def _hosts_of(kind: str, seen: Inspection) -> Sequence[InspectedHost]:
    """Return the hosts of a kind of target: nodes, external hosts, or the router."""
    if kind == "fabric":
        return [seen["router"], *seen.get("other_routers", ())]
    return seen["nodes"] if kind == "node" else seen["external"]


def _running(place: Location) -> Location:
    """Return the location. Raises UsageError when it does not run."""
    if not place.netns_path:
        hint = (
            f"; see: kubenetlab describe pod {place.name} -n {place.namespace}"
            if place.kind == "pod"
            else ""
        )
        raise UsageError(f"{place.title} is not running{hint}")
    return place


def _one_of(target: Target, seen: Inspection, *, must_run: bool = True) -> InspectedPod:
    """Return one pod of a workload: a ready pod, else a running one.

    must_run: False also accepts a pod that does not run. Raises UsageError when there is none.
    """
    kind = WORKLOADS[target.kind]
    pods = [
        pod
        for pod in seen["pods"]
        if (pod["namespace"], pod["workload"]) == (target.namespace, f"{kind}/{target.name}")
    ]
    candidates = [pod for pod in pods if pod["pid"]] or ([] if must_run else pods)
    if not candidates:
        raise UsageError(
            f"{kind.lower()} {target.namespace}/{target.name} has no pod"
            f"{' that runs' if must_run else ''}"
            f"{'' if pods else suggest_similar(target.name, seen)}"
        )
    return next((pod for pod in candidates if pod["ready"]), candidates[0])


def _owner(target: Target, seen: Inspection) -> Target:
    """Return the node, pod or host that has an address; `target` itself when no place has it.

    Pods with hostNetwork are passed over: their address belongs to the node.
    """
    owners = [
        place
        for place in places(seen)
        if target.name in place.addresses and not place.is_host_network
    ]
    if not owners:
        return target
    (owner, *_) = owners
    return structs.replace(target, kind=owner.kind, namespace=owner.namespace, name=owner.name)


def _dotted(target: Target, seen: Inspection) -> Target:
    """Return the source that a name with dots means.

    It is a pod of that name, else the pod or workload NAME in NAMESPACE.
    """
    pod = structs.replace(target, kind="pod", namespace=target.namespace or DEFAULT_NAMESPACE)
    name, _, namespace = target.name.rpartition(".")
    if exists(pod, seen) or namespace not in {each["namespace"] for each in seen["pods"]}:
        return pod
    inside = structs.replace(target, kind="pod", namespace=namespace, name=name)
    workloads = workloads_called(inside, seen, (namespace,))
    return only(target, workloads) if workloads and not exists(inside, seen) else inside


def _why_no_place(target: Target, seen: Inspection) -> str:
    """Return why a target cannot be a source, with the pods behind it when it is a Service."""
    expected = "expected a pod, workload (deploy: and others), node:, ext: or fabric:"
    if target.kind in ("svc", "lb", "nodeport"):
        name = target.name.rpartition("/")[2]
        service = service_named(seen, target.namespace, name)
        if service is None:
            similar = suggest_similar(name, seen, with_services=True)
            return (
                f"{target}: {expected}; and there is no Service {target.namespace}/{name}{similar}"
            )
        addresses = {entry["address"] for entry in service["endpoints"]}
        pods = [
            pod_title(pod["namespace"], pod["name"])
            for pod in seen["pods"]
            if addresses.intersection(pod["addresses"])
        ]
        more = f" and {len(pods) - _NAMED_PODS} more" if len(pods) > _NAMED_PODS else ""
        named = ", ".join(pods[:_NAMED_PODS]) or "none"
        return f"{target}: {expected}; no process runs in a Service, its pods are: {named}{more}"
    if target.kind == "ip" and not target.scheme:
        return f"{target}: {expected}; no pod, node or host has this address"
    return f"{target}: {expected}; found a {'URL' if target.scheme else 'DNS name'}"
