"""Targets resolved in a running lab: pods, nodes, hosts and Services. `seen` is always the document of `inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, Literal

from msgspec import Struct, structs

from kubenetlab.errors import UsageError, did_you_mean
from kubenetlab.observe.grammar import (
    DEFAULT_NAMESPACE,
    EVERY_NODE,
    KUBECTL_KINDS,
    PREFIX_OF,
    WORKLOADS,
    Target,
    parse,
    pod_title,
)
from kubenetlab.observe.suggestions import near

_NAMED_PODS: Final = 5
"""Maximum number of pods that a message lists."""


_ENDED = ("Succeeded", "Failed")
"""Phases of pods that run no more."""


class Location(Struct, frozen=True):
    """Something that runs: a pod, a node or an external host."""

    kind: Literal["pod", "node", "ext"]
    namespace: str
    name: str
    sandbox: str
    netns: str
    """Path of its network namespace."""
    addresses: tuple[str, ...]
    """At most one per family, the primary family first."""
    is_host_network: bool = False
    """A pod in its node's network: it has the node's address."""
    node: str = ""
    """The node it runs on, or is; none for external hosts."""

    @property
    def title(self) -> str:
        return (
            pod_title(self.namespace, self.name)
            if self.kind == "pod"
            else f"{self.kind}:{self.name}"
        )

    @property
    def address(self) -> str:
        """In the primary family; empty for what has none yet."""
        return self.addresses[0] if self.addresses else ""

    @property
    def versions(self) -> list[int]:
        """The IP versions it has, the primary one first."""
        return [ip_address(address).version for address in self.addresses]

    def of_version(self, version: int | None) -> Location:
        """The place with its address of one family alone. Raises UsageError when it has none of that family."""
        found = tuple(
            address for address in self.addresses if version in (None, ip_address(address).version)
        )
        if not found:
            raise UsageError(
                f"{self.title} has no IPv{version} address; it has {', '.join(self.addresses) or 'none'}"
            )
        return structs.replace(self, addresses=found)


class Meaning(Struct, frozen=True):
    """A destination, resolved against the objects of the lab."""

    target: Target
    """Any kind but `word`."""
    service: tuple[str, str] | None = None
    """Namespace and name of the Service that a DNS name stands for."""
    alternatives: tuple[str, ...] = ()
    """Targets of other objects with the same name, which were not chosen."""

    def explanation(self, text: str) -> str:
        """Say which object was chosen: `web: Service default/web by its DNS name (not deploy:default/web)`."""
        if self.service is not None:
            chosen = f"Service {'/'.join(self.service)} by its DNS name {self.target.name}"
        elif self.target.kind == "name":
            chosen = f"no object has this name; used as a DNS name{f': {self.target.name}' if self.target.name != text else ''}"
        else:
            chosen = str(self.target.bare)
        return f"{text}: {chosen}" + (
            f" (not {', '.join(self.alternatives)})" if self.alternatives else ""
        )


def read(text: str, seen: Mapping[str, Any], namespace: str | None = None) -> Target:
    """Parse a target; `svc/web` is the Service `web`, or a pod where only the namespace `svc` has that name.

    Raises UsageError for a text that cannot be parsed, and where both exist.
    """
    target = parse(text, namespace)
    first, slash, _ = text.partition("/")
    if not slash or first not in KUBECTL_KINDS:
        return target
    pod = structs.replace(target, kind="pod", namespace=first)
    if _pod_named(seen, first, target.name) is None:
        return target
    if _exists(target, seen):
        raise UsageError(f"{text} is ambiguous; use one of: {target}, {pod}")
    return pod


def meaning(target: Target, seen: Mapping[str, Any], source: Location | None = None) -> Meaning:
    """Resolve a destination against the objects of the lab.

    A bare name is a pod, a Service (reached by its DNS name, as a client in `source` does), else a workload, else a DNS name.
    It is looked up in the namespace of option -n, else in the source's namespace; pods and workloads in `default`, too.
    NAME.NAMESPACE[.svc[.DOMAIN]] of a Service is that Service. A name alone that is both a pod and a Service is the pod. Raises
    UsageError for an ambiguous name: two pods, two workloads, or with a port or a URL, for a source in a pod, a pod and a Service.
    """
    uses_dns = source is not None and source.kind == "pod"
    own = source.namespace if source is not None and uses_dns else DEFAULT_NAMESPACE
    if target.kind == "name":
        return Meaning(target, _service_of(target.name, seen, own))
    if target.kind != "word":
        return Meaning(target)
    first = target.namespace or own
    namespaces = tuple(dict.fromkeys((first, target.namespace or DEFAULT_NAMESPACE)))
    pods = _pods_called(target, seen, namespaces)
    workloads = _workloads_called(target, seen, namespaces)
    has_service = service_named(seen, first, target.name) is not None
    if has_service and (not pods or (uses_dns and not target.is_bare)):
        _only(target, [*pods, structs.replace(target, kind="svc", namespace=first)])
        # A DNS name of one label is completed with the namespace of the client.
        name = target.name if first == own else f"{target.name}.{first}"
        by_name = structs.replace(target, kind="name", namespace="", name=name)
        return Meaning(by_name, (first, target.name), tuple(str(each.bare) for each in workloads))
    if pods:
        service = (
            [structs.replace(target, kind="svc", namespace=first)]
            if has_service and uses_dns
            else []
        )
        return Meaning(
            _only(target, pods),
            alternatives=tuple(str(each.bare) for each in (*service, *workloads)),
        )
    if workloads:
        return Meaning(_only(target, workloads))
    return Meaning(structs.replace(target, kind="name", namespace=""))


def service_of(
    target: Target, seen: Mapping[str, Any], source: Location | None = None
) -> tuple[str, str] | None:
    """Return namespace and name of the Service that a target names, by kind, DNS name or address; None for other targets."""
    if target.kind in ("svc", "lb"):
        return target.namespace, target.name
    if target.kind == "nodeport":
        return target.namespace, target.name.rpartition("/")[2]
    if target.kind == "ip":
        owners = [
            entry
            for entry in seen["services"]
            if target.name in (*entry["cluster_ips"], *entry["load_balancer_ips"])
        ]
        return (owners[0]["namespace"], owners[0]["name"]) if len(owners) == 1 else None
    return meaning(target, seen, source).service


def source_target(target: Target, seen: Mapping[str, Any]) -> Target:
    """Resolve a source, or a place to run a command in: a bare name is a pod, else a workload; an address is its owner.

    Raises UsageError for targets that run nothing, such as a Service, and for targets with a port.
    """
    if not target.scheme and target.kind == "ip":
        target = _owner(target, seen)
    elif target.kind == "name" and not target.scheme:
        target = _dotted(target, seen)
    if target.kind not in ("word", "pod", "node", "ext", "each", *WORKLOADS):
        raise UsageError(_why_no_place(target, seen))
    if not target.is_bare:
        raise UsageError(f"{target}: a source has no port; use {target.bare}")
    if target.kind != "word":
        return target
    namespace = target.namespace or DEFAULT_NAMESPACE
    pod = Target("pod", namespace, target.name)
    if _pod_named(seen, namespace, target.name) is not None:
        return pod
    workloads = _workloads_called(target, seen, (namespace,))
    return _only(target, workloads) if workloads else pod


def pod_of(target: Target, seen: Mapping[str, Any]) -> tuple[str, str]:
    """Return (namespace, name) of the pod, whether it runs or not. Raises UsageError when there is none."""
    target = source_target(target, seen)
    if target.kind in WORKLOADS:
        pod = _one_of(target, seen, must_run=False)
        return pod["namespace"], pod["name"]
    if target.kind != "pod":
        raise UsageError(f"{target}: wanted a pod")
    if _pod_named(seen, target.namespace, target.name) is None:
        raise UsageError(
            f"there is no pod {target.namespace}/{target.name}{near(target.name, seen)}"
        )
    return target.namespace, target.name


def resolve(target: Target, seen: Mapping[str, Any], *, is_destination: bool = False) -> Location:
    """Return the running pod, node or host that a target names. Raises UsageError when there is none.

    is_destination: the target may have a port, and messages suggest Services, too.
    """
    target = source_target(target.bare if is_destination else target, seen)
    if target.kind == "pod":
        pod = _pod_named(seen, target.namespace, target.name)
        if pod is None:
            similar = near(target.name, seen, with_services=is_destination)
            raise UsageError(f"there is no pod {target.namespace}/{target.name}{similar}")
        return _running(_pod_place(pod))
    if target.kind in WORKLOADS:
        return _pod_place(_one_of(target, seen))
    if target.kind == "each":
        raise UsageError(f"{target}: wanted one pod, node or host; each: is several pods")
    names = [entry["name"] for entry in seen["nodes" if target.kind == "node" else "external"]]
    if target.name not in names:
        raise UsageError(
            f"there is no {target.kind}:{target.name}{did_you_mean(target.name, names)}; known: {', '.join(names) or 'none'}"
        )
    return _running(_place_named(target, seen))


def named_places(target: Target, seen: Mapping[str, Any]) -> list[Location]:
    """Return every place that a target names: of `each:Kind/ns/name` all pods.

    Raises UsageError when there is none, and for a pod of `each:` that does not run although it has not ended.
    """
    target = source_target(target, seen)
    if target.kind != "each":
        return [resolve(target, seen)]
    pods = [
        pod
        for pod in seen["pods"]
        if (pod["namespace"], pod["workload"]) == (target.namespace, target.name)
    ]
    found = [_pod_place(pod) for pod in pods if pod["pid"]]
    if not found:
        raise UsageError(f"{target.name} in namespace {target.namespace} has no pod that runs")
    waiting = [pod["name"] for pod in pods if not pod["pid"] and pod.get("phase") not in _ENDED]
    if waiting:
        names = ", ".join(waiting[:_NAMED_PODS]) + (
            f" and {len(waiting) - _NAMED_PODS} more" if len(waiting) > _NAMED_PODS else ""
        )
        raise UsageError(
            f"{len(waiting)} of {len(pods)} pods of {target.name} in namespace {target.namespace} do not run: {names}"
        )
    return found


class NodePort(Struct, frozen=True):
    """A Service's port at a node."""

    title: str
    addresses: tuple[str, ...]
    port: int


def node_ports(
    target: Target, seen: Mapping[str, Any], port: int | None, protocol: str = "TCP"
) -> list[NodePort]:
    """What `nodeport:node/ns/name` means, one for each node: of the Service's port of that number, of the one with that node port, or of
    the first. Raises UsageError when there is no such node, Service or port."""
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
    having = [entry for entry in service["ports"] if entry["node_port"]]
    fitting = [
        entry
        for entry in having
        if entry["protocol"] == protocol and port in (None, entry["port"], entry["node_port"])
    ]
    if not fitting:
        known = (
            ", ".join(
                f"{entry['port']}:{entry['node_port']}/{entry['protocol']}" for entry in having
            )
            or "none"
        )
        raise UsageError(
            f"Service {target.namespace}/{name} has no node port for {port or 'any port'}/{protocol}; it has {known}"
        )
    found = fitting[0]["node_port"]
    return [
        NodePort(
            f"nodeport:{entry['name']}/{target.namespace}/{name}", tuple(entry["addresses"]), found
        )
        for entry in nodes
    ]


def service_named(seen: Mapping[str, Any], namespace: str, name: str) -> Mapping[str, Any] | None:
    """What `inspect` shows of a Service; None when there is no such Service."""
    return next(
        (
            entry
            for entry in seen["services"]
            if (entry["namespace"], entry["name"]) == (namespace, name)
        ),
        None,
    )


def places(seen: Mapping[str, Any]) -> list[Location]:
    """Everything that runs, in order: pods, nodes, external hosts."""
    found = [_pod_place(pod) for pod in seen["pods"] if pod["pid"] and pod["addresses"]]
    found += [_place("node", entry) for entry in seen["nodes"] if entry["pid"]]
    return found + [_place("ext", entry) for entry in seen["external"] if entry["pid"]]


def _place(kind: Literal["node", "ext"], entry: Mapping[str, Any]) -> Location:
    node = entry["name"] if kind == "node" else ""
    return Location(
        kind,
        "",
        entry["name"],
        entry["sandbox"],
        entry["netns"] or "",
        tuple(entry["addresses"]),
        node=node,
    )


def _place_named(target: Target, seen: Mapping[str, Any]) -> Location:
    """A node or an external host that is there."""
    entries = seen["nodes" if target.kind == "node" else "external"]
    return _place(
        "node" if target.kind == "node" else "ext",
        next(entry for entry in entries if entry["name"] == target.name),
    )


def _pod_place(pod: Mapping[str, Any]) -> Location:
    return Location(
        "pod",
        pod["namespace"],
        pod["name"],
        pod["sandbox"],
        pod["netns"] or "",
        tuple(pod["addresses"]),
        pod["host_network"],
        pod["node"],
    )


def _running(place: Location) -> Location:
    if not place.netns:
        hint = (
            f"; see: kubenetlab describe pod {place.name} -n {place.namespace}"
            if place.kind == "pod"
            else ""
        )
        raise UsageError(f"{place.title} is not running{hint}")
    return place


def _one_of(target: Target, seen: Mapping[str, Any], *, must_run: bool = True) -> Mapping[str, Any]:
    """One pod of a workload: the first that is ready, else that runs, else (when it need not run) any. Raises UsageError when there is none."""
    kind = WORKLOADS[target.kind]
    every = [
        pod
        for pod in seen["pods"]
        if (pod["namespace"], pod["workload"]) == (target.namespace, f"{kind}/{target.name}")
    ]
    found = [pod for pod in every if pod["pid"]] or ([] if must_run else every)
    if not found:
        raise UsageError(
            f"{kind.lower()} {target.namespace}/{target.name} has no pod{' that runs' if must_run else ''}"
        )
    return next((pod for pod in found if pod["ready"]), found[0])


def _pod_named(seen: Mapping[str, Any], namespace: str, name: str) -> Mapping[str, Any] | None:
    return next(
        (pod for pod in seen["pods"] if (pod["namespace"], pod["name"]) == (namespace, name)), None
    )


def _pods_called(
    target: Target, seen: Mapping[str, Any], namespaces: Sequence[str]
) -> list[Target]:
    found = (
        namespace
        for namespace in namespaces
        if _pod_named(seen, namespace, target.name) is not None
    )
    return [structs.replace(target, kind="pod", namespace=namespace) for namespace in found]


def _workloads_called(
    target: Target, seen: Mapping[str, Any], namespaces: Sequence[str]
) -> list[Target]:
    """Workloads of that name that have pods, of any kind."""
    there = {(pod["namespace"], pod["workload"]) for pod in seen["pods"]}
    return [
        structs.replace(target, kind=PREFIX_OF[kind], namespace=namespace)
        for namespace in namespaces
        for kind in PREFIX_OF
        if (namespace, f"{kind}/{target.name}") in there
    ]


def _only(target: Target, found: Sequence[Target]) -> Target:
    """Return the only candidate. Raises UsageError with the exact form of each when there are several."""
    if len(found) > 1:
        raise UsageError(f"{target.bare} is ambiguous; use one of: {', '.join(map(str, found))}")
    return found[0]


def _exists(target: Target, seen: Mapping[str, Any]) -> bool:
    """Return True for a pod, node, Service or workload (with pods) of the lab."""
    match target.kind:
        case "pod":
            return _pod_named(seen, target.namespace, target.name) is not None
        case "svc":
            return service_named(seen, target.namespace, target.name) is not None
        case "node":
            return any(node["name"] == target.name for node in seen["nodes"])
    return target.bare in _workloads_called(target.bare, seen, (target.namespace,))


def _service_of(name: str, seen: Mapping[str, Any], namespace: str) -> tuple[str, str] | None:
    """Return the Service with the DNS name NAME[.NAMESPACE[.svc[.DOMAIN]]] for a client in `namespace`."""
    labels = name.rstrip(".").split(".")
    labels = labels if len(labels) > 1 else [*labels, namespace]
    if len(labels) > 2 and labels[2] != "svc":
        return None
    return (labels[1], labels[0]) if service_named(seen, labels[1], labels[0]) is not None else None


def _owner(target: Target, seen: Mapping[str, Any]) -> Target:
    """Return the node, pod or host with an address; a node before the pods of its own network; `target` where no place has it."""
    owners = [
        place
        for place in places(seen)
        if target.name in place.addresses and not place.is_host_network
    ]
    if not owners:
        return target
    (owner, *_) = owners
    return structs.replace(target, kind=owner.kind, namespace=owner.namespace, name=owner.name)


def _dotted(target: Target, seen: Mapping[str, Any]) -> Target:
    """Return what a name with dots is as a source: a pod of that name, else a pod or workload as NAME.NAMESPACE."""
    pod = structs.replace(target, kind="pod", namespace=target.namespace or DEFAULT_NAMESPACE)
    name, _, namespace = target.name.rpartition(".")
    if _exists(pod, seen) or namespace not in {each["namespace"] for each in seen["pods"]}:
        return pod
    inside = structs.replace(target, kind="pod", namespace=namespace, name=name)
    workloads = _workloads_called(inside, seen, (namespace,))
    return _only(target, workloads) if workloads and not _exists(inside, seen) else inside


def _why_no_place(target: Target, seen: Mapping[str, Any]) -> str:
    """Say why a target cannot be a source, and which pods are behind it."""
    wanted = "wanted a pod, workload (deploy: and others), node: or ext:"
    if target.kind in ("svc", "lb", "nodeport"):
        name = target.name.rpartition("/")[2]
        service = service_named(seen, target.namespace, name)
        if service is None:
            return f"{target}: {wanted}; and there is no Service {target.namespace}/{name}{near(name, seen, with_services=True)}"
        addresses = {entry["address"] for entry in service["endpoints"]}
        pods = [
            pod_title(pod["namespace"], pod["name"])
            for pod in seen["pods"]
            if addresses.intersection(pod["addresses"])
        ]
        more = f" and {len(pods) - _NAMED_PODS} more" if len(pods) > _NAMED_PODS else ""
        return f"{target}: {wanted}; no process runs in a Service, its pods are: {', '.join(pods[:_NAMED_PODS]) or 'none'}{more}"
    if target.kind == "ip" and not target.scheme:
        return f"{target}: {wanted}; no pod, node or host has this address"
    return f"{target}: {wanted}; found a {'URL' if target.scheme else 'DNS name'}"
