"""How people address things: on the command line and in check files alike.

[ns/]pod   deploy:[ns/]name (sts: ds: job: rs: as well)   each:Kind/ns/name   node:name   ext:name
svc:[ns/]name   lb:[ns/]name   nodeport:node/ns/name   ip:ADDRESS   anything with a dot: a DNS name
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final, Literal

from msgspec import Struct, structs

from kubenetlab.errors import UsageError, did_you_mean

Kind = Literal["pod", "deploy", "sts", "ds", "job", "rs", "each", "node", "ext", "svc", "lb", "nodeport", "ip", "name"]

WORKLOADS: Final[Mapping[Kind, str]] = {
    "deploy": "Deployment",
    "sts": "StatefulSet",
    "ds": "DaemonSet",
    "job": "Job",
    "rs": "ReplicaSet",
}
"""Prefix → the kind of workload that stands for one of its pods."""

EVERY_NODE = "*"
_PREFIXES = (*WORKLOADS, "node", "ext", "svc", "lb", "nodeport", "ip")
_WITH_PORT: Final = re.compile(r"(?:[^:]+|\[.*\]):(\d+)")
"""A name or an address with a port behind it; a bare IPv6 address is none."""
_KUBECTLS: Final[Mapping[str, Kind]] = {
    "pod": "pod",
    "po": "pod",
    "svc": "svc",
    "service": "svc",
    **{word: short for short, kind in WORKLOADS.items() for word in (short, kind.lower())},
}
"""The words before a slash that kubectl takes for kinds."""


class Target(Struct, frozen=True):
    """What was written, taken apart."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.namespace}/{self.name}" if self.namespace else f"{self.kind}:{self.name}"


class Place(Struct, frozen=True):
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
        return f"{self.namespace}/{self.name}" if self.kind == "pod" else f"{self.kind}:{self.name}"

    @property
    def address(self) -> str:
        """In the primary family; empty for what has none yet."""
        return self.addresses[0] if self.addresses else ""

    @property
    def versions(self) -> list[int]:
        """The IP versions it has, the primary one first."""
        return [ip_address(address).version for address in self.addresses]

    def of_version(self, version: int | None) -> Place:
        """The place with its address of one family alone. Raises UsageError when it has none of that family."""
        found = tuple(address for address in self.addresses if version in (None, ip_address(address).version))
        if not found:
            raise UsageError(f"{self.title} has no IPv{version} address; it has {', '.join(self.addresses) or 'none'}")
        return structs.replace(self, addresses=found)


def parse(text: str, namespace: str | None = None) -> Target:
    """Raises UsageError for what cannot be understood."""
    prefix, colon, rest = text.partition(":")
    default = namespace or "default"
    if found := _WITH_PORT.fullmatch(rest if prefix in (*_PREFIXES, "pod", "each") else text):
        port = found[1]
        raise UsageError(f"{text}: the port is said apart: {text.removesuffix(f':{port}')} --tcp {port} (in a table, port: {port})")
    if not colon:
        kind, slash, name = text.partition("/")
        if slash and kind in _KUBECTLS:
            return Target(_KUBECTLS[kind], default, name)
        if slash:
            return Target("pod", kind, name)
        return Target("name", "", text) if "." in text else Target("pod", default, text)
    if prefix in ("node", "ext"):
        return Target(prefix, "", rest)  # type: ignore[arg-type]
    if prefix == "ip":
        try:
            return Target("ip", "", str(ip_address(rest)))
        except ValueError:
            raise UsageError(f"{text}: wanted an IP address behind ip:") from None
    if prefix in ("svc", "lb", "pod", *WORKLOADS):
        where, slash, name = rest.partition("/")
        return Target(prefix, where if slash else default, name if slash else where)
    if prefix == "each":
        workload, _, name = rest.partition("/")
        where, _, name = name.rpartition("/")
        return Target("each", where or default, f"{workload}/{name}")
    if prefix == "nodeport":
        node, _, name = rest.partition("/")
        where, _, name = name.rpartition("/")
        if not node or not name:
            raise UsageError(f"{text}: wanted nodeport:NODE/[NAMESPACE/]SERVICE, with * for every node")
        return Target("nodeport", where or default, f"{node}/{name}")
    raise UsageError(
        f"{text}: wanted [ns/]pod, deploy: (sts:, ds:, job:, rs:), node:, ext:, svc:, lb:, nodeport:, ip: or a DNS name{did_you_mean(prefix, _PREFIXES)}"
    )


def pod_of(target: Target, seen: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name) of the pod that a target means, whether it runs or not. Raises UsageError when there is none."""
    if target.kind in WORKLOADS:
        pod = _one_of(target, seen, must_run=False)
        return pod["namespace"], pod["name"]
    if target.kind != "pod":
        place = resolve(target, seen)
        if place.kind == "pod":
            return place.namespace, place.name
    elif any((pod["namespace"], pod["name"]) == (target.namespace, target.name) for pod in seen["pods"]):
        return target.namespace, target.name
    else:
        raise UsageError(f"there is no pod {target.namespace}/{target.name}{_near(target.name, seen)}")
    raise UsageError(f"{target}: wanted a pod")


def resolve(target: Target, seen: Mapping[str, Any], *, is_destination: bool = False) -> Place:
    """The running thing that a target means; `seen` is what `inspect` shows. Raises UsageError when there is none.

    To a destination a Service may have been meant.
    """
    match target.kind:
        case "pod" | "name":
            namespace = target.namespace or "default"
            found = [pod for pod in seen["pods"] if (pod["namespace"], pod["name"]) == (namespace, target.name)]
            if not found:
                raise UsageError(f"there is no pod {namespace}/{target.name}{_near(target.name, seen, with_services=is_destination)}")
            return _running(_pod_place(found[0]))
        case _ if target.kind in WORKLOADS:
            return _pod_place(_one_of(target, seen))
        case "node" | "ext":
            kind = "nodes" if target.kind == "node" else "external"
            names = [entry["name"] for entry in seen[kind]]
            if target.name not in names:
                raise UsageError(
                    f"there is no {target.kind}:{target.name}{did_you_mean(target.name, names)}; known: {', '.join(names) or 'none'}"
                )
            entry = seen[kind][names.index(target.name)]
            return _running(_place(target.kind, entry))
    raise UsageError(f"{target}: wanted something that runs: a pod, deploy:, node: or ext:")


def _one_of(target: Target, seen: Mapping[str, Any], *, must_run: bool = True) -> Mapping[str, Any]:
    """One pod of a workload: the first that is ready, else that runs, else (when it need not run) any. Raises UsageError when there is none."""
    kind = WORKLOADS[target.kind]
    every = [pod for pod in seen["pods"] if (pod["namespace"], pod["workload"]) == (target.namespace, f"{kind}/{target.name}")]
    found = [pod for pod in every if pod["pid"]] or ([] if must_run else every)
    if not found:
        raise UsageError(f"{kind.lower()} {target.namespace}/{target.name} has no pod{' that runs' if must_run else ''}")
    return next((pod for pod in found if pod["ready"]), found[0])


def named_places(target: Target, seen: Mapping[str, Any]) -> list[Place]:
    """Every running thing that a target means: of `each:Kind/ns/name` all pods. Raises UsageError when there is none."""
    if target.kind != "each":
        return [resolve(target, seen)]
    found = [
        _pod_place(pod) for pod in seen["pods"] if (pod["namespace"], pod["workload"]) == (target.namespace, target.name) and pod["pid"]
    ]
    if not found:
        raise UsageError(f"{target.name} in namespace {target.namespace} has no pod that runs")
    return found


class NodePort(Struct, frozen=True):
    """A Service's port at a node."""

    title: str
    addresses: tuple[str, ...]
    port: int


def node_ports(target: Target, seen: Mapping[str, Any], port: int | None, protocol: str = "TCP") -> list[NodePort]:
    """What `nodeport:node/ns/name` means, one for each node: of the Service's port of that number, of the one with that node port, or of
    the first. Raises UsageError when there is no such node, Service or port."""
    node, _, name = target.name.partition("/")
    nodes = [entry for entry in seen["nodes"] if node in (EVERY_NODE, entry["name"])]
    if not nodes:
        names = [entry["name"] for entry in seen["nodes"]]
        raise UsageError(f"there is no node:{node}{did_you_mean(node, names)}; known: {', '.join(names)}")
    service = service_named(seen, target.namespace, name)
    if service is None:
        raise UsageError(f"there is no Service {target.namespace}/{name}")
    having = [entry for entry in service["ports"] if entry["node_port"]]
    fitting = [entry for entry in having if entry["protocol"] == protocol and port in (None, entry["port"], entry["node_port"])]
    if not fitting:
        known = ", ".join(f"{entry['port']}:{entry['node_port']}/{entry['protocol']}" for entry in having) or "none"
        raise UsageError(f"Service {target.namespace}/{name} has no node port for {port or 'any port'}/{protocol}; it has {known}")
    found = fitting[0]["node_port"]
    return [NodePort(f"nodeport:{entry['name']}/{target.namespace}/{name}", tuple(entry["addresses"]), found) for entry in nodes]


def service_named(seen: Mapping[str, Any], namespace: str, name: str) -> Mapping[str, Any] | None:
    """What `inspect` shows of a Service; None when there is no such Service."""
    return next((entry for entry in seen["services"] if (entry["namespace"], entry["name"]) == (namespace, name)), None)


def places(seen: Mapping[str, Any]) -> list[Place]:
    """Everything that runs, in order: pods, nodes, external hosts."""
    found = [_pod_place(pod) for pod in seen["pods"] if pod["pid"] and pod["addresses"]]
    found += [_place("node", entry) for entry in seen["nodes"] if entry["pid"]]
    return found + [_place("ext", entry) for entry in seen["external"] if entry["pid"]]


def _place(kind: Literal["node", "ext"], entry: Mapping[str, Any]) -> Place:
    node = entry["name"] if kind == "node" else ""
    return Place(kind, "", entry["name"], entry["sandbox"], entry["netns"] or "", tuple(entry["addresses"]), node=node)


def _pod_place(pod: Mapping[str, Any]) -> Place:
    return Place(
        "pod",
        pod["namespace"],
        pod["name"],
        pod["sandbox"],
        pod["netns"] or "",
        tuple(pod["addresses"]),
        pod["host_network"],
        pod["node"],
    )


def _running(place: Place) -> Place:
    if not place.netns:
        hint = f"; see: kubenetlab describe pod {place.name} -n {place.namespace}" if place.kind == "pod" else ""
        raise UsageError(f"{place.title} is not running{hint}")
    return place


def _is_of(pod: str, deployment: str) -> bool:
    """True for `web-6bd7cd67c6-hcxd6` of `web`: two more parts behind the name."""
    return pod.startswith(f"{deployment}-") and pod.removeprefix(f"{deployment}-").count("-") == 1


def _near(name: str, seen: Mapping[str, Any], *, with_services: bool = False) -> str:
    elsewhere = [f"{pod['namespace']}/{pod['name']}" for pod in seen["pods"] if pod["name"] == name]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    names: Iterable[str] = [pod["name"] for pod in seen["pods"]]
    services = [f"svc:{entry['namespace']}/{entry['name']}" for entry in seen["services"] if with_services and entry["name"] == name]
    deployments = sorted(
        {f"deploy:{pod['namespace']}/{pod['name'].rsplit('-', 2)[0]}" for pod in seen["pods"] if _is_of(pod["name"], name)}
    )
    return f"; did you mean {' or '.join([*services, *deployments])}?" if services or deployments else did_you_mean(name, names)
