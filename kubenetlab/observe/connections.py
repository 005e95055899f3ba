"""Connections of probes: the objects at both ends.

Diagnostics are matched with these objects, and rows get names that do not change with new pods.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import structs

from kubenetlab.diagnostics.model import Connection
from kubenetlab.observe.expect import Destination, ServiceNodePort, ServiceTarget
from kubenetlab.observe.pod_ports import HostPort, PodPort
from kubenetlab.observe.targets.grammar import WORKLOADS, Target
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.lookups import service_named
from kubenetlab.observe.targets.resolution import named_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kubenetlab.observe.inspection import InspectedEndpoint, InspectedService, Inspection

_SHORT = {kind: prefix for prefix, kind in WORKLOADS.items()}


_NAME_SERVERS: Final = "kube-system/kube-dns"
"""Service of the cluster's name servers."""
_DNS_PORT: Final = 53


class _Reached(NamedTuple):
    """Objects at one end of a probe."""

    service: str
    """`namespace/name` of the Service; empty if there is none."""
    pods: frozenset[str] = frozenset()
    """Pods that were reached directly; those behind the Service are added later."""
    port: int = 0


class Ends:
    """Ends of probes in one lab. `seen` is the document of `inspect`."""

    def __init__(self, seen: Inspection) -> None:
        self._seen = seen
        self._objects: dict[tuple[str, Target, int], _Reached] = {}
        """(namespace of the source, target, port) → objects that the target names."""
        self._stable_targets: dict[tuple[Target, str], str] = {}
        """(target, title) → stable name."""

    def of_cell(self, source: Location, destination: Destination) -> Connection:
        """Return the ends of one probe of the matrix."""
        if isinstance(destination, ServiceTarget):
            reached = _reached_port(destination)
            addresses, protocol = (destination.address,), destination.protocol
            connection = self._connection(source, reached)
            return self._with_traffic(connection, addresses, protocol, destination.port)
        pods = frozenset([_name(destination)] if destination.kind == "pod" else [])
        connection = self._connection(source, _Reached("", pods))
        return self._with_traffic(connection, destination.addresses, "ICMP")

    def of_row(
        self,
        source: Location,
        target: Target,
        port: int | None,
        address: str = "",
        protocol: str = "TCP",
    ) -> Connection:
        """Return the ends of one row of a table, or of one ping.

        address: destination of the packets, which may differ from the object that the target names:
        the Service behind an ExternalName, or one pod of a Service.
        """
        key = (source.namespace, target, port or 0)
        if key not in self._objects:
            self._objects[key] = self._named(source, target, port or 0)
        named = self._objects[key]
        reached = self._reached(address, port or 0, protocol) if address else named
        if target.kind == "each":  # one pod of several
            named = reached
        is_resolved = target.kind == "name" and source.kind == "pod"
        name_servers = (
            self._pods_behind.get(_NAME_SERVERS, frozenset()) if is_resolved else frozenset()
        )
        connection = self._connection(source, named, reached)
        if address:
            connection = self._with_traffic(
                connection, (address,), protocol if port else "ICMP", port or 0
            )
        if not is_resolved:
            return connection
        lookup = self._connection(source, _Reached(_NAME_SERVERS, port=_DNS_PORT))
        name_server = self._services.get(_NAME_SERVERS)
        return structs.replace(
            connection,
            name_servers=name_servers,
            lookup=self._with_traffic(lookup, name_server["cluster_ips"], "")
            if name_server is not None
            else lookup,
        )

    def _with_traffic(
        self,
        connection: Connection,
        addresses: Iterable[str],
        protocol: str,
        port: int = 0,
    ) -> Connection:
        """Return a connection with its protocol, and the ports and addresses of its packets.

        addresses: those of the target. port: that of the target, if it is not the Service's own.
        """
        behind = [
            endpoint
            for service in connection.services
            for endpoint in self._endpoints(service, connection.port)
        ]
        ports = {connection.port, port, *(endpoint["port"] for endpoint in behind)} - {0}
        return structs.replace(
            connection,
            protocol=protocol,
            ports=frozenset(ports),
            addresses=frozenset((*addresses, *(endpoint["address"] for endpoint in behind))),
        )

    def _named(self, source: Location, target: Target, port: int) -> _Reached:
        """Return the objects that a target names."""
        if service := self._service_of(source, target):
            return _Reached(
                service, port=self._port_of(service, port) if target.kind == "nodeport" else port
            )
        if target.kind == "ip":
            return _Reached("", self._pods_at.get(target.name, frozenset()), port)
        if target.kind in ("name", "node", "ext", "fabric"):
            return _Reached("", port=port)
        return _Reached(
            "",
            frozenset(
                _name(place) for place in named_places(target, self._seen) if place.kind == "pod"
            ),
            port,
        )

    def _reached(self, address: str, port: int, protocol: str) -> _Reached:
        """Return the objects at an address: a Service, also by a node port of a node, or pods.

        Pods in a node's network are left out, since network policies do not isolate them.
        """
        if address in self._service_at:
            return _Reached(self._service_at[address], port=port)
        if address not in self._node_addresses:
            return _Reached("", self._pods_at.get(address, frozenset()), port)
        service, own_port = self._node_ports.get((port, protocol), ("", port))
        return _Reached(service, port=own_port)

    def _endpoints(self, service: str, port: int) -> Sequence[InspectedEndpoint]:
        """Return the endpoints of a port of a Service; those of all ports for an unknown one."""
        if (entry := self._services.get(service)) is None:
            return ()
        names = {each["name"] for each in entry["ports"] if each["port"] == port}
        own = [each for each in entry["endpoints"] if each["port_name"] in names]
        return own or entry["endpoints"]

    @cached_property
    def _services(self) -> dict[str, InspectedService]:
        return {f"{each['namespace']}/{each['name']}": each for each in self._seen["services"]}

    def stable_name(self, place: Location) -> str:
        """Return a name that stays the same when a workload's pods are replaced.

        Examples: `deploy/web[0]`, `pod/client`, `node/worker`.
        """
        if place.kind != "pod":
            return f"{place.kind}/{place.name}"
        return self._stable_pod(place.namespace, place.name)

    def _stable_pod(self, namespace: str, pod: str) -> str:
        workload, index = self._index_in_workload.get(f"{namespace}/{pod}", ("", 0))
        kind, _, name = workload.partition("/")
        where = "" if namespace == "default" else f"{namespace}/"
        return (
            f"{_SHORT.get(kind, kind.lower())}/{where}{name}[{index}]"
            if workload
            else f"pod/{where}{pod}"
        )

    def stable_target(self, target: Target, title: str) -> str:
        """Return a row's target under a stable name, such as `svc/cart` or `deploy/web[1]`.

        title: title of the place to which the target was resolved.
        """
        if (target, title) not in self._stable_targets:
            self._stable_targets[target, title] = self._name_stably(target, title)
        return self._stable_targets[target, title]

    def _name_stably(self, target: Target, title: str) -> str:
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
        """Return a destination of the matrix under a stable name."""
        if not isinstance(destination, ServiceTarget):
            return self.stable_name(destination)
        family = f" {destination.family}" if destination.family else ""
        port = f"{destination.port}/{destination.protocol}{family}"
        if isinstance(destination, PodPort):
            return f"{self._stable_pod(destination.namespace, destination.name)}:{port}"
        if isinstance(destination, HostPort):
            return f"ext/{destination.name}:{port}"
        if isinstance(destination, ServiceNodePort):
            target = destination.target.replace(":", "/", 1)
            return f"{target}:{destination.service_port}/{destination.protocol}{family}"
        if destination.is_external_ip:
            return f"ip/{destination.title}"
        where = "" if destination.namespace == "default" else f"{destination.namespace}/"
        kind = "lb" if destination.is_outside else "svc"
        return f"{kind}/{where}{destination.name}:{port}"

    def _connection(self, source: Location, *reached: _Reached) -> Connection:
        services = frozenset(end.service for end in reached if end.service)
        pods = frozenset().union(
            *(end.pods | self._pods_behind.get(end.service, frozenset()) for end in reached)
        )
        source_pod = _name(source) if source.kind == "pod" else ""
        return Connection(
            source_pod,
            services,
            pods,
            port=reached[-1].port,
            is_from_outside=source.kind == "ext",
            has_node_address=source.has_node_address,
        )

    def _service_of(self, source: Location, target: Target) -> str:
        """Return `namespace/name` of the Service that a target names, or an empty string.

        The target may be any of the Service's names and addresses.
        """
        if target.kind in ("svc", "lb"):
            return f"{target.namespace}/{target.name}"
        if target.kind == "nodeport":
            return f"{target.namespace}/{target.name.partition('/')[2]}"
        if target.kind == "ip":
            return self._service_at.get(target.name, "")
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
        """Return the Service's port for one of its node ports; any other port unchanged."""
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
        """(node port, protocol) → (Service, its port)."""
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
        """Address → pods that have it."""
        pods_by_address: dict[str, set[str]] = {}
        for pod in self._seen["pods"]:
            for address in pod["addresses"]:
                pods_by_address.setdefault(address, set()).add(f"{pod['namespace']}/{pod['name']}")
        return {address: frozenset(pods) for address, pods in pods_by_address.items()}

    @cached_property
    def _pods_behind(self) -> dict[str, frozenset[str]]:
        """Service → pods behind it, ready or not."""
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
    def _service_at(self) -> dict[str, str]:
        """Address → Service that has it."""
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
    def _index_in_workload(self) -> dict[str, tuple[str, int | str]]:
        """Pod → (workload, index of the pod in it).

        The index is the ordinal in a StatefulSet and the node in a DaemonSet, else the order of
        creation.
        """
        counts: dict[tuple[str, str], int] = {}
        indexes: dict[str, tuple[str, int | str]] = {}
        for pod in self._seen["pods"]:
            if pod["workload"]:
                key = pod["namespace"], pod["workload"]
                counts[key] = counts.get(key, -1) + 1
                kind, _, name = pod["workload"].partition("/")
                ordinal = pod["name"].removeprefix(f"{name}-")
                index = (
                    ordinal
                    if kind == "StatefulSet"
                    else pod["node"]
                    if kind == "DaemonSet" and pod["node"]
                    else counts[key]
                )
                indexes[f"{pod['namespace']}/{pod['name']}"] = pod["workload"], index
        return indexes


def _reached_port(port: ServiceTarget) -> _Reached:
    """Return the objects that a port of the matrix belongs to."""
    name = f"{port.namespace}/{port.name}"
    if isinstance(port, PodPort):
        return _Reached("", frozenset([name]), port.port)
    number = port.service_port if isinstance(port, ServiceNodePort) else port.port
    return _Reached("" if isinstance(port, HostPort) else name, port=number)


def _name(place: Location) -> str:
    """Return `namespace/name` of a pod, as diagnostics name it.

    A target would need a prefix for some namespaces.
    """
    return f"{place.namespace}/{place.name}"
