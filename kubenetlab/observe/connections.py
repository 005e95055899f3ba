"""Which objects stand at both ends of a probe: what diagnostics are matched with, and names that outlive new pods."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

from msgspec import structs

from kubenetlab.diagnostics.model import Connection
from kubenetlab.observe.expect import Destination, ServiceTarget
from kubenetlab.observe.grammar import WORKLOADS, Target
from kubenetlab.observe.locations import Location
from kubenetlab.observe.lookups import service_named
from kubenetlab.observe.targets import named_places

_SHORT = {kind: prefix for prefix, kind in WORKLOADS.items()}


_NAME_SERVERS: Final = "kube-system/kube-dns"
"""Service of the cluster's name servers."""


class _Reached(NamedTuple):
    """What one end of a probe is."""

    service: str
    """Empty where it is none."""
    pods: frozenset[str] = frozenset()
    """Beside those behind the Service."""
    port: int = 0


class Ends:
    """The ends of probes in one lab; `seen` is what `inspect` shows."""

    def __init__(self, seen: Mapping[str, Any]) -> None:
        self._seen = seen

    def of_cell(self, source: Location, destination: Destination) -> Connection:
        """Return the ends of one probe of the matrix."""
        if isinstance(destination, ServiceTarget):
            return self._connection(
                source,
                _Reached(f"{destination.namespace}/{destination.name}", port=destination.port),
            )
        return self._connection(
            source,
            _Reached("", frozenset([_name(destination)] if destination.kind == "pod" else [])),
        )

    def of_row(
        self,
        source: Location,
        target: Target,
        port: int | None,
        address: str = "",
        protocol: str = "TCP",
    ) -> Connection:
        """Return the ends of one row of a table, or of one ping.

        address: where the packets go, which tells more than a name: another Service behind an ExternalName, or one pod of a Service.
        """
        named = self._named(source, target, port or 0)
        reached = self._reached(address, port or 0, protocol) if address else named
        is_resolved = target.kind == "name" and source.kind == "pod"
        name_servers = self._behind.get(_NAME_SERVERS, frozenset()) if is_resolved else frozenset()
        return structs.replace(self._connection(source, named, reached), name_servers=name_servers)

    def _named(self, source: Location, target: Target, port: int) -> _Reached:
        """Return what a target means by itself."""
        if service := self._service_of(source, target):
            return _Reached(
                service, port=self._port_of(service, port) if target.kind == "nodeport" else port
            )
        if target.kind == "ip":
            return _Reached("", self._pods_at.get(target.name, frozenset()), port)
        if target.kind in ("name", "node", "ext"):
            return _Reached("", port=port)
        return _Reached(
            "",
            frozenset(
                _name(place) for place in named_places(target, self._seen) if place.kind == "pod"
            ),
            port,
        )

    def _reached(self, address: str, port: int, protocol: str) -> _Reached:
        """Return what is at an address: a Service, one at a node port of a node, or pods; pods of a node's own network are not isolated."""
        if address in self._at:
            return _Reached(self._at[address], port=port)
        if address not in self._node_addresses:
            return _Reached("", self._pods_at.get(address, frozenset()), port)
        service, own_port = self._node_ports.get((port, protocol), ("", port))
        return _Reached(service, port=own_port)

    def stable_name(self, place: Location) -> str:
        """Return a name that stays the same when a workload's pods are replaced: `deploy/web[0]`, `pod/client`, `node/worker`."""
        if place.kind != "pod":
            return f"{place.kind}/{place.name}"
        workload, index = self._places_in_workloads.get(_name(place), ("", 0))
        kind, _, name = workload.partition("/")
        where = "" if place.namespace == "default" else f"{place.namespace}/"
        return (
            f"{_SHORT.get(kind, kind.lower())}/{where}{name}[{index}]"
            if workload
            else f"pod/{where}{place.name}"
        )

    def stable_target(self, target: Target, title: str) -> str:
        """Return a row's target under such a name: `svc/cart`, `deploy/web[1]`; `title` is what it was resolved to."""
        where = "" if target.namespace in ("", "default") else f"{target.namespace}/"
        if target.kind in ("svc", "lb", "ip", "name"):
            return f"{target.kind}/{where}{target.name}"
        if target.kind == "nodeport":  # of `nodeport:*/…` each node is one target
            return title.replace(":", "/", 1)
        place = next(
            (place for place in named_places(target, self._seen) if place.title == title), None
        )
        return self.stable_name(place) if place is not None else title

    def stable_destination(self, destination: Destination) -> str:
        """Return a destination of the matrix under such a name."""
        if not isinstance(destination, ServiceTarget):
            return self.stable_name(destination)
        where = "" if destination.namespace == "default" else f"{destination.namespace}/"
        family = f" {destination.family}" if destination.family else ""
        kind = "lb" if destination.is_outside else "svc"
        return f"{kind}/{where}{destination.name}:{destination.port}/{destination.protocol}{family}"

    def _connection(self, source: Location, *reached: _Reached) -> Connection:
        services = frozenset(one.service for one in reached if one.service)
        pods = frozenset().union(
            *(one.pods | self._behind.get(one.service, frozenset()) for one in reached)
        )
        source_pod = _name(source) if source.kind == "pod" else ""
        return Connection(
            source_pod, services, pods, port=reached[-1].port, is_from_outside=source.kind == "ext"
        )

    def _service_of(self, source: Location, target: Target) -> str:
        """Return `namespace/name` of the Service that a target means, by whichever of its names and addresses; else nothing."""
        if target.kind in ("svc", "lb"):
            return f"{target.namespace}/{target.name}"
        if target.kind == "nodeport":
            return f"{target.namespace}/{target.name.partition('/')[2]}"
        if target.kind == "ip":
            return self._at.get(target.name, "")
        if target.kind == "name":
            name, _, rest = target.name.partition(".")
            namespace = rest.partition(".")[0] or source.namespace
            return (
                f"{namespace}/{name}"
                if service_named(self._seen, namespace, name) is not None
                else ""
            )
        return ""

    def _port_of(self, service: str, port: int) -> int:
        """Return the Service's own port for one of its node ports, or for its own."""
        return next(
            (
                own
                for (node_port, _), (name, own) in self._node_ports.items()
                if (name, node_port) == (service, port)
            ),
            port,
        )

    @cached_property
    def _node_addresses(self) -> frozenset[str]:
        return frozenset(address for node in self._seen["nodes"] for address in node["addresses"])

    @cached_property
    def _node_ports(self) -> dict[tuple[int, str], tuple[str, int]]:
        """(node port, protocol) → (Service, its own port)."""
        return {
            (port["node_port"], port["protocol"]): (
                f"{service['namespace']}/{service['name']}",
                port["port"],
            )
            for service in self._seen["services"]
            for port in service["ports"]
            if port["node_port"]
        }

    @cached_property
    def _pods_at(self) -> dict[str, frozenset[str]]:
        """Address → the pods that have it."""
        found: dict[str, set[str]] = {}
        for pod in self._seen["pods"]:
            for address in pod["addresses"]:
                found.setdefault(address, set()).add(f"{pod['namespace']}/{pod['name']}")
        return {address: frozenset(pods) for address, pods in found.items()}

    @cached_property
    def _behind(self) -> dict[str, frozenset[str]]:
        """Service → the pods behind it, ready or not."""
        return {
            f"{service['namespace']}/{service['name']}": frozenset().union(
                *(
                    self._pods_at.get(endpoint["address"], frozenset())
                    for endpoint in service["endpoints"]
                )
            )
            for service in self._seen["services"]
        }

    @cached_property
    def _at(self) -> dict[str, str]:
        """Address → the Service that has it."""
        return {
            address: f"{service['namespace']}/{service['name']}"
            for service in self._seen["services"]
            for address in (
                *service["cluster_ips"],
                *service["load_balancer_ips"],
                *service["external_ips"],
            )
        }

    @cached_property
    def _places_in_workloads(self) -> dict[str, tuple[str, int | str]]:
        """Pod → (its workload, its place in it): of a StatefulSet the ordinal, of a DaemonSet the node, else the order in which they came."""
        counts: dict[tuple[str, str], int] = {}
        found: dict[str, tuple[str, int | str]] = {}
        for pod in self._seen["pods"]:
            if pod["workload"]:
                key = pod["namespace"], pod["workload"]
                counts[key] = counts.get(key, -1) + 1
                kind, _, name = pod["workload"].partition("/")
                ordinal = pod["name"].removeprefix(f"{name}-")
                place = (
                    ordinal
                    if kind == "StatefulSet"
                    else pod["node"]
                    if kind == "DaemonSet" and pod["node"]
                    else counts[key]
                )
                found[f"{pod['namespace']}/{pod['name']}"] = pod["workload"], place
        return found


def _name(place: Location) -> str:
    """Return `namespace/name` of a pod, as diagnostics name it; a target needs a prefix for some namespaces."""
    return f"{place.namespace}/{place.name}"
