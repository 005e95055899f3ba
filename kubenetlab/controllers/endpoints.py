"""endpoints and endpointslicemirroring controllers: the old Endpoints objects, beside the slices that everybody reads.

For a Service with a selector they are made from its slices, to be looked at. For one without, hand-made Endpoints become slices.
Source: k8s.io/kubernetes pkg/controller/endpoint, pkg/controller/endpointslicemirroring.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api import ip
from kubenetlab.api.core import SERVICE_NAME_LABEL, Service
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
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.children import owner_reference
from kubenetlab.controllers.endpointslices import CONTROLLER as SLICE_CONTROLLER
from kubenetlab.controllers.naming import suffix
from kubenetlab.controllers.serials import Serials

WATCHES: Final[tuple[Kind, ...]] = (Service, Endpoints, EndpointSlice)
CONVERGES_IN_ONE_PASS: Final = True

MANAGED_LABEL = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
MIRROR = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR_LABEL = "endpointslice.kubernetes.io/skip-mirror"


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    serials = Serials(cluster)
    for key in _affected(cluster):
        service, found = cluster.get(Service, *key), cluster.get(Endpoints, *key)
        mirrors = [
            piece for piece in cluster.slices_by_service.get(key, ()) if _is_by(piece, MIRROR)
        ]
        if (
            found is not None
            and found.labels.get(MANAGED_LABEL) == MANAGER
            and (service is None or not service.spec.selector)
        ):
            yield deletion(found)
        if service is None:
            yield from (deletion(piece) for piece in mirrors)
            continue
        has_selector = bool(service.spec.selector) and service.spec.type != "ExternalName"
        if has_selector:
            wanted = _from_slices(
                service,
                [piece for piece in cluster.slices_of(service) if _is_by(piece, SLICE_CONTROLLER)],
            )
            if found is None:
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
                yield Endpoints(meta, wanted)
            elif found.subsets != wanted:
                yield structs.replace(found, subsets=wanted)
        is_mirrored = (
            not has_selector and found is not None and found.labels.get(SKIP_MIRROR_LABEL) != "true"
        )
        if is_mirrored or mirrors:
            yield from _mirrored(cluster, service, found if is_mirrored else None, serials, now)
    yield from serials.changes()


def _affected(cluster: Cluster) -> Iterable[tuple[str, str]]:
    """Namespace and name of every Service for which something has changed since it was looked at: itself, its Endpoints, its slices."""
    news = cluster.since("endpoints", WATCHES)
    if news is None:
        return dict.fromkeys(
            (*cluster.keyed(Service), *cluster.keyed(Endpoints), *cluster.slices_by_service)
        )
    keys = {
        obj.key
        for kind in (Service, Endpoints)
        for pair in news[kind]
        for obj in pair
        if obj is not None
    }
    return sorted(
        keys
        | {
            (piece.namespace, piece.service_name)
            for pair in news[EndpointSlice]
            for piece in pair
            if piece is not None
        }
    )


def _is_by(piece: EndpointSlice, controller: str) -> bool:
    return piece.labels.get(MANAGED_BY_LABEL) == controller


def _from_slices(service: Service, pieces: Sequence[EndpointSlice]) -> tuple[EndpointSubset, ...]:
    """One subset for each set of ports, of the Service's primary family; terminating endpoints are left out."""
    primary = service.spec.ip_families[0] if service.spec.ip_families else "IPv4"
    groups: dict[tuple[EndpointPort, ...], tuple[list[EndpointAddress], list[EndpointAddress]]] = {}
    for piece in pieces:
        for endpoint in piece.endpoints if piece.address_type == primary else ():
            if not endpoint.conditions.is_terminating:
                ready, not_ready = groups.setdefault(piece.ports, ([], []))
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


def _mirrored(
    cluster: Cluster, service: Service, endpoints: Endpoints | None, serials: Serials, now: float
) -> Iterator[Change]:
    """Slices for hand-made Endpoints: one for each subset and address family; those that are no longer wanted go."""
    known = {piece.name: piece for piece in cluster.slices_of(service) if _is_by(piece, MIRROR)}
    wanted = {piece.name: piece for piece in _slices(endpoints)} if endpoints is not None else {}
    yield from (deletion(piece) for name, piece in known.items() if name not in wanted)
    for name, piece in wanted.items():
        old = known.get(name)
        if old is None:
            meta = structs.replace(
                piece.metadata,
                uid=serials.child_uid("EndpointSlice", service, name),
                creation_timestamp=timestamp(now),
                generation=1,
            )
        else:
            meta = structs.replace(old.metadata, labels=piece.labels)
        yield structs.replace(piece, metadata=meta)


def _slices(endpoints: Endpoints) -> Iterator[EndpointSlice]:
    labels = {**endpoints.labels, SERVICE_NAME_LABEL: endpoints.name, MANAGED_BY_LABEL: MIRROR}
    for number, subset in enumerate(endpoints.subsets):
        states = [
            (address, ready)
            for ready, some in ((True, subset.addresses), (False, subset.not_ready_addresses))
            for address in some
        ]
        for family, version in (("IPv4", 4), ("IPv6", 6)):
            found = tuple(
                Endpoint(
                    (address.ip,),
                    EndpointConditions(ready),
                    address.hostname or None,
                    address.node_name,
                    target_ref=address.target_ref,
                )
                for address, ready in states
                if ip.version_of(address.ip) == version
            )
            if found:
                name = f"{endpoints.name}-{suffix(endpoints.full_name, family, str(number))}"
                owner = (owner_reference(endpoints),)
                meta = ObjectMeta(
                    name=name, namespace=endpoints.namespace, labels=labels, owner_references=owner
                )
                yield EndpointSlice(meta, family, found, subset.ports)  # type: ignore[arg-type]
