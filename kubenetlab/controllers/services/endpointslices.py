"""EndpointSlice controller: the pods behind each Service and their conditions.

It reads Services, pods and nodes, and writes the EndpointSlices of Services with a selector: one
set per Service and IP family, at most 100 endpoints in a slice. Pods whose ports resolve
differently are in different slices. Slices of other controllers and of users are left alone.
Source: k8s.io/endpointslice {reconciler,utils}.go; KEP-1669, KEP-1672.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from msgspec import structs

from kubenetlab.api.core import SERVICE_NAME_LABEL, ZONE_LABEL, Node, ObjectReference, Service
from kubenetlab.api.discovery import (
    MANAGED_BY_LABEL,
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForZone,
)
from kubenetlab.api.meta import ObjectMeta, matches_labels, timestamp
from kubenetlab.api.object_map import Changes
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.api.values import ip
from kubenetlab.controllers.support.children import owner_reference
from kubenetlab.controllers.support.naming import suffix
from kubenetlab.controllers.support.serials import Serials

WATCHES: Final[tuple[Kind, ...]] = (Service, Pod, Node, EndpointSlice)
CONVERGES_IN_ONE_PASS: Final = True
INCREMENTAL: Final = True

CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
MAX_ENDPOINTS = 100
"""Maximum number of endpoints in a slice."""

_FAMILIES: Final[tuple[tuple[Literal["IPv4", "IPv6"], int], ...]] = (("IPv4", 4), ("IPv6", 6))

Ports = tuple[EndpointPort, ...]


def reconcile(cluster: Cluster, now: float, *, changes: Changes | None = None) -> Iterator[Change]:
    serials = Serials(cluster)
    # Deletions come first: a slice whose label was moved to another Service has the name of the
    # one that its own Service lacks.
    updated: list[EndpointSlice] = []
    for service in _affected(cluster, changes):
        owned = [
            slice_
            for slice_ in cluster.slices_of(service)
            if slice_.labels.get(MANAGED_BY_LABEL) == CONTROLLER
        ]
        desired = (
            {slice_.name: slice_ for slice_ in _slices(cluster, service, now)}
            if service.spec.selector and service.spec.type != "ExternalName"
            else {}
        )
        for slice_ in owned:
            if slice_.name not in desired:
                yield deletion(slice_)
        known = {slice_.name: slice_ for slice_ in owned}
        for name, slice_ in desired.items():
            old = known.get(name)
            if old is None:
                meta = structs.replace(
                    slice_.metadata, uid=serials.child_uid("EndpointSlice", service, name)
                )
            else:
                meta = structs.replace(old.metadata, labels=slice_.labels)
            updated.append(structs.replace(slice_, metadata=meta))
    yield from updated
    yield from serials.changes()


def _affected(cluster: Cluster, changes: Changes | None) -> Iterable[Service]:
    """Return the Services to reconcile.

    These are Services that have changed since the last run, or whose slices have, or that select or
    selected a changed pod. In the first run, and when a node has changed, it is all Services.
    """
    if changes is None or changes[Node]:
        return cluster.all(Service)
    keys = {service.key for _, service in changes[Service] if service is not None}
    keys |= {(slice_.namespace, slice_.service_name) for slice_ in changes.objects(EndpointSlice)}
    by_pair = cluster.index(Service, _by_selector) if changes[Pod] else {}
    for pod in changes.objects(Pod):
        selecting = (
            service
            for pair in pod.labels.items()
            for service in by_pair.get((pod.namespace, *pair), ())
        )
        keys |= {
            service.key
            for service in selecting
            if matches_labels(service.spec.selector, pod.labels)
        }
    return [service for key in sorted(keys) if (service := cluster.get(Service, *key)) is not None]


def _by_selector(services: Iterable[Service]) -> dict[tuple[str, str, str], list[Service]]:
    """Return (namespace, key, value) → Services, for the first label of each Service's selector."""
    index: dict[tuple[str, str, str], list[Service]] = {}
    for service in services:
        for pair in list(service.spec.selector.items())[:1]:
            index.setdefault((service.namespace, *pair), []).append(service)
    return index


def resolved_ports(service: Service, pod: Pod) -> Ports:
    """Return the Service's target ports as numbers of this pod.

    A named port that the pod does not have is left out.
    """
    ports = []
    for port in service.spec.ports:
        number = (
            port.target_port
            if isinstance(port.target_port, int)
            else _named_port(pod, str(port.target_port), port.protocol)
        )
        if number is not None:
            ports.append(
                EndpointPort(
                    name=port.name,
                    port=number,
                    protocol=port.protocol,
                    app_protocol=port.app_protocol,
                )
            )
    return tuple(ports)


def _named_port(pod: Pod, name: str, protocol: str) -> int | None:
    matches = (
        port.container_port
        for container in pod.spec.long_running_containers
        for port in container.ports
        if port.name == name and port.protocol == protocol
    )
    return next(matches, None)


def _slices(cluster: Cluster, service: Service, now: float) -> Iterator[EndpointSlice]:
    pods = [
        pod
        for pod in cluster.select(service.namespace, service.spec.selector)
        if pod.addresses and not pod.is_finished
    ]
    for family, version in _FAMILIES:
        if family not in service.spec.ip_families:
            continue
        groups: dict[Ports, list[Endpoint]] = {} if pods else {(): []}
        for pod in pods:
            address = next((text for text in pod.addresses if ip.version_of(text) == version), None)
            if address is not None:
                groups.setdefault(resolved_ports(service, pod), []).append(
                    _endpoint(cluster, service, pod, address)
                )
        for ports, endpoints in groups.items():
            for start in range(0, max(1, len(endpoints)), MAX_ENDPOINTS):
                yield _slice(
                    service,
                    family,
                    ports,
                    endpoints[start : start + MAX_ENDPOINTS],
                    start // MAX_ENDPOINTS,
                    now,
                )


def _slice(
    service: Service,
    family: Literal["IPv4", "IPv6"],
    ports: Ports,
    endpoints: Sequence[Endpoint],
    number: int,
    now: float,
) -> EndpointSlice:
    signature = ",".join(f"{port.name}:{port.port}/{port.protocol}" for port in ports)
    name = f"{service.name}-{suffix(service.full_name, family, signature, str(number))}"
    labels = {**service.labels, SERVICE_NAME_LABEL: service.name, MANAGED_BY_LABEL: CONTROLLER}
    if service.is_headless:
        labels[HEADLESS_LABEL] = ""
    meta = ObjectMeta(
        name=name,
        namespace=service.namespace,
        labels=labels,
        creation_timestamp=timestamp(now),
        generation=1,
        owner_references=(owner_reference(service),),
    )
    return EndpointSlice(meta, family, tuple(endpoints), ports)


def _endpoint(cluster: Cluster, service: Service, pod: Pod, address: str) -> Endpoint:
    node = cluster.node(pod.spec.node_name)
    ready = service.spec.publish_not_ready_addresses or (pod.is_ready and not pod.is_terminating)
    has_name = bool(pod.spec.hostname) and pod.spec.subdomain == service.name
    zone = node.labels.get(ZONE_LABEL) if node else None
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(
            ready=ready, serving=pod.is_ready, terminating=pod.is_terminating
        ),
        hostname=pod.spec.hostname if has_name else None,
        node_name=pod.spec.node_name,
        zone=zone,
        target_ref=ObjectReference("Pod", pod.namespace, pod.name, pod.uid),
        hints=_hints(service, pod.spec.node_name, zone) if ready else None,
    )


def _hints(service: Service, node: str, zone: str | None) -> EndpointHints | None:
    """Return the topology hints of a ready endpoint, from its Service's trafficDistribution."""
    distribution = service.spec.traffic_distribution
    nodes = (ForZone(node),) if distribution == "PreferSameNode" else ()
    if distribution is None or not (zone or nodes):
        return None
    return EndpointHints((ForZone(zone),) if zone else (), nodes)
