"""endpoints and endpointslicemirroring controllers: Endpoints objects beside EndpointSlices.

They read Services, Endpoints and EndpointSlices. For a Service with a selector they write Endpoints
from its slices, for clients that still read Endpoints. For a Service without one they mirror
Endpoints that a user wrote to EndpointSlices.
Source: k8s.io/kubernetes pkg/controller/endpoint, pkg/controller/endpointslicemirroring.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.core import SERVICE_NAME_LABEL, IPFamily, Service
from kubenetlab.api.discovery import (
    MANAGED_BY_LABEL,
    Endpoint,
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
)
from kubenetlab.api.meta import ObjectMeta, timestamp
from kubenetlab.api.object_map import Changes
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.api.values import ip
from kubenetlab.controllers.services.endpointslices import CONTROLLER as SLICE_CONTROLLER
from kubenetlab.controllers.support.children import owner_reference
from kubenetlab.controllers.support.naming import suffix
from kubenetlab.controllers.support.serials import Serials

WATCHES: Final[tuple[Kind, ...]] = (Service, Endpoints, EndpointSlice)
CONVERGES_IN_ONE_PASS: Final = True
INCREMENTAL: Final = True

_FAMILIES: Final[tuple[tuple[IPFamily, int], ...]] = (("IPv4", 4), ("IPv6", 6))

MANAGED_LABEL = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
MIRROR = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR_LABEL = "endpointslice.kubernetes.io/skip-mirror"


def reconcile(cluster: Cluster, now: float, *, changes: Changes | None = None) -> Iterator[Change]:
    serials = Serials(cluster)
    for key in _affected(cluster, changes):
        service, endpoints = cluster.get(Service, *key), cluster.get(Endpoints, *key)
        mirrors = [
            slice_
            for slice_ in cluster.slices_by_service.get(key, ())
            if _is_managed_by(slice_, MIRROR)
        ]
        if (
            endpoints is not None
            and endpoints.labels.get(MANAGED_LABEL) == MANAGER
            and (service is None or not service.spec.selector)
        ):
            yield deletion(endpoints)
        if service is None:
            yield from (deletion(slice_) for slice_ in mirrors)
            continue
        has_selector = bool(service.spec.selector) and service.spec.type != "ExternalName"
        if has_selector:
            subsets = _from_slices(
                service,
                [
                    slice_
                    for slice_ in cluster.slices_of(service)
                    if _is_managed_by(slice_, SLICE_CONTROLLER)
                ],
            )
            if endpoints is None:
                uid = serials.child_uid("Endpoints", service, service.name)
                labels = {**service.labels, MANAGED_LABEL: MANAGER}
                meta = ObjectMeta(
                    service.name,
                    service.namespace,
                    labels,
                    uid=uid,
                    creation_timestamp=timestamp(now),
                    generation=1,
                )
                yield Endpoints(meta, subsets)
            elif endpoints.subsets != subsets:
                yield structs.replace(endpoints, subsets=subsets)
        is_mirrored = (
            not has_selector
            and endpoints is not None
            and endpoints.labels.get(SKIP_MIRROR_LABEL) != "true"
        )
        if is_mirrored or mirrors:
            yield from _mirror(cluster, service, endpoints if is_mirrored else None, serials, now)
    yield from serials.changes()


def _affected(cluster: Cluster, changes: Changes | None) -> Iterable[tuple[str, str]]:
    """Return (namespace, name) of the Services to reconcile.

    These are Services that have changed since the last run, or whose Endpoints or slices have.
    """
    if changes is None:
        return dict.fromkeys(
            (*cluster.by_key(Service), *cluster.by_key(Endpoints), *cluster.slices_by_service)
        )
    keys = {obj.key for obj in changes.objects(Service, Endpoints)}
    return sorted(
        keys
        | {(slice_.namespace, slice_.service_name) for slice_ in changes.objects(EndpointSlice)}
    )


def _is_managed_by(slice_: EndpointSlice, controller: str) -> bool:
    return slice_.labels.get(MANAGED_BY_LABEL) == controller


def _from_slices(service: Service, slices: Sequence[EndpointSlice]) -> tuple[EndpointSubset, ...]:
    """Return the subsets of Endpoints for slices: one per set of ports.

    Only the Service's primary IP family counts; terminating endpoints are left out.
    """
    primary = service.spec.ip_families[0] if service.spec.ip_families else "IPv4"
    groups: dict[tuple[EndpointPort, ...], tuple[list[EndpointAddress], list[EndpointAddress]]] = {}
    for slice_ in slices:
        for endpoint in slice_.endpoints if slice_.address_type == primary else ():
            if not endpoint.conditions.is_terminating:
                ready, not_ready = groups.setdefault(slice_.ports, ([], []))
                address = EndpointAddress(
                    endpoint.addresses[0],
                    endpoint.hostname or "",
                    endpoint.node_name,
                    endpoint.target_ref,
                )
                (ready if endpoint.conditions.is_ready else not_ready).append(address)
    return tuple(
        EndpointSubset(tuple(ready), tuple(not_ready), ports)
        for ports, (ready, not_ready) in groups.items()
    )


def _mirror(
    cluster: Cluster, service: Service, endpoints: Endpoints | None, serials: Serials, now: float
) -> Iterator[Change]:
    """Yield the slices that mirror the Endpoints, and the deletion of outdated ones.

    There is one slice per subset and IP family; without Endpoints there is none.
    """
    known = {
        slice_.name: slice_
        for slice_ in cluster.slices_of(service)
        if _is_managed_by(slice_, MIRROR)
    }
    desired = (
        {slice_.name: slice_ for slice_ in _slices(endpoints)} if endpoints is not None else {}
    )
    yield from (deletion(slice_) for name, slice_ in known.items() if name not in desired)
    for name, slice_ in desired.items():
        old = known.get(name)
        if old is None:
            meta = structs.replace(
                slice_.metadata,
                uid=serials.child_uid("EndpointSlice", service, name),
                creation_timestamp=timestamp(now),
                generation=1,
            )
        else:
            meta = structs.replace(old.metadata, labels=slice_.labels)
        yield structs.replace(slice_, metadata=meta)


def _slices(endpoints: Endpoints) -> Iterator[EndpointSlice]:
    labels = {**endpoints.labels, SERVICE_NAME_LABEL: endpoints.name, MANAGED_BY_LABEL: MIRROR}
    for number, subset in enumerate(endpoints.subsets):
        addresses = [
            (address, ready)
            for ready, group in ((True, subset.addresses), (False, subset.not_ready_addresses))
            for address in group
        ]
        for family, version in _FAMILIES:
            slice_endpoints = tuple(
                Endpoint(
                    (address.ip,),
                    EndpointConditions(ready),
                    address.hostname or None,
                    address.node_name,
                    target_ref=address.target_ref,
                )
                for address, ready in addresses
                if ip.version_of(address.ip) == version
            )
            if slice_endpoints:
                name = f"{endpoints.name}-{suffix(endpoints.full_name, family, str(number))}"
                owner = (owner_reference(endpoints),)
                meta = ObjectMeta(
                    name=name, namespace=endpoints.namespace, labels=labels, owner_references=owner
                )
                yield EndpointSlice(meta, family, slice_endpoints, subset.ports)
