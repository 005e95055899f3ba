"""Which objects stand at both ends of a probe: what diagnostics are matched with, and names that outlive new pods."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from kubenetlab.diagnostics.model import Connection
from kubenetlab.observe.expect import Destination, ServicePort
from kubenetlab.observe.grammar import WORKLOADS, Target
from kubenetlab.observe.targets import Place, named_places, service_named

_SHORT = {kind: prefix for prefix, kind in WORKLOADS.items()}


class Ends:
    """The ends of probes in one lab; `seen` is what `inspect` shows."""

    def __init__(self, seen: Mapping[str, Any]) -> None:
        self._seen = seen

    def of_cell(self, source: Place, destination: Destination) -> Connection:
        """Return the ends of one probe of the matrix."""
        if isinstance(destination, ServicePort):
            service = f"{destination.namespace}/{destination.name}"
            return self._connection(source, service, self._behind.get(service, frozenset()), destination.port)
        pods = frozenset([_name(destination)] if destination.kind == "pod" else [])
        return self._connection(source, "", pods, 0)

    def of_row(self, source: Place, target: Target, port: int | None) -> Connection:
        """Return the ends of one row of a table."""
        service = self._service_of(source, target)
        if service:
            return self._connection(source, service, self._behind.get(service, frozenset()), port or 0)
        if target.kind == "ip":
            return self._connection(source, "", self._pods_at.get(target.name, frozenset()), port or 0)
        if target.kind in ("name", "node", "ext"):
            return self._connection(source, "", frozenset(), port or 0)
        pods = frozenset(_name(place) for place in named_places(target, self._seen) if place.kind == "pod")
        return self._connection(source, "", pods, port or 0)

    def stable_name(self, place: Place) -> str:
        """Return a name that stays the same when a workload's pods are replaced: `deploy/web[0]`, `pod/client`, `node/worker`."""
        if place.kind != "pod":
            return f"{place.kind}/{place.name}"
        workload, index = self._places_in_workloads.get(_name(place), ("", 0))
        kind, _, name = workload.partition("/")
        where = "" if place.namespace == "default" else f"{place.namespace}/"
        return f"{_SHORT.get(kind, kind.lower())}/{where}{name}[{index}]" if workload else f"pod/{where}{place.name}"

    def stable_target(self, target: Target, title: str) -> str:
        """Return a row's target under such a name: `svc/cart`, `deploy/web[1]`; `title` is what it was resolved to."""
        where = "" if target.namespace in ("", "default") else f"{target.namespace}/"
        if target.kind in ("svc", "lb", "ip", "name"):
            return f"{target.kind}/{where}{target.name}"
        if target.kind == "nodeport":  # of `nodeport:*/…` each node is one target
            return title.replace(":", "/", 1)
        place = next((place for place in named_places(target, self._seen) if place.title == title), None)
        return self.stable_name(place) if place is not None else title

    def stable_destination(self, destination: Destination) -> str:
        """Return a destination of the matrix under such a name."""
        if not isinstance(destination, ServicePort):
            return self.stable_name(destination)
        where = "" if destination.namespace == "default" else f"{destination.namespace}/"
        family = f" {destination.family}" if destination.family else ""
        kind = "lb" if destination.is_outside else "svc"
        return f"{kind}/{where}{destination.name}:{destination.port}/{destination.protocol}{family}"

    def _connection(self, source: Place, service: str, pods: frozenset[str], port: int) -> Connection:
        return Connection(_name(source) if source.kind == "pod" else "", service, pods, port, source.kind == "ext")

    def _service_of(self, source: Place, target: Target) -> str:
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
            return f"{namespace}/{name}" if service_named(self._seen, namespace, name) is not None else ""
        return ""

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
                *(self._pods_at.get(endpoint["address"], frozenset()) for endpoint in service["endpoints"])
            )
            for service in self._seen["services"]
        }

    @cached_property
    def _at(self) -> dict[str, str]:
        """Address → the Service that has it."""
        return {
            address: f"{service['namespace']}/{service['name']}"
            for service in self._seen["services"]
            for address in (*service["cluster_ips"], *service["load_balancer_ips"], *service["external_ips"])
        }

    @cached_property
    def _places_in_workloads(self) -> dict[str, tuple[str, int]]:
        """Pod → (its workload, its place among the workload's pods, in the order in which they came)."""
        counts: dict[tuple[str, str], int] = {}
        found = {}
        for pod in self._seen["pods"]:
            if pod["workload"]:
                key = pod["namespace"], pod["workload"]
                counts[key] = counts.get(key, -1) + 1
                found[f"{pod['namespace']}/{pod['name']}"] = pod["workload"], counts[key]
        return found


def _name(place: Place) -> str:
    """Return `namespace/name` of a pod, as diagnostics name it; a target needs a prefix for some namespaces."""
    return f"{place.namespace}/{place.name}"
