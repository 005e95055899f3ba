"""ServiceView: a Service with its endpoints, as every kube-proxy knows it from the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from msgspec import Struct

from kubenetlab.api.core import Service
from kubenetlab.api.discovery import Endpoint, EndpointSlice
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.versioned import VersionedMap

Claim = tuple[str, str, int]
"""(external address, protocol, port)"""


SERVICE_PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


class ServiceView(Struct, frozen=True, dict=True):
    """A Service and its EndpointSlices."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    taken: tuple[Claim, ...] = ()
    """Ports at its external addresses that an earlier Service has already."""

    @cached_property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Endpoints of the Service's primary family: a pod has an address in each family."""
        families = self.service.spec.ip_families
        return tuple(
            endpoint
            for slice_ in self.slices
            if not families or slice_.address_type == families[0]
            for endpoint in slice_.endpoints
        )

    @cached_property
    def ready(self) -> int:
        """Number of ready endpoints."""
        return sum(endpoint.conditions.is_ready for endpoint in self.endpoints)


def is_proxied(service: Service) -> bool:
    """Return True unless labels assign the Service to another proxy or to none."""
    return SERVICE_PROXY_NAME_LABEL not in service.labels and HEADLESS_LABEL not in service.labels


def service_views(cluster: Cluster, cache: PlanCache) -> VersionedMap[ObjectKey, ServiceView]:
    """Return every Service with its slices, in order.

    If several Services claim the same port of an external address, the first one gets it. A view
    that did not change since the last call is the identical value.
    """
    services, slices = cluster.by_key(Service), cluster.slices_by_service
    taken = cluster.index(Service, _taken)

    def view(key: ObjectKey) -> ServiceView | None:
        if (service := services.get(key)) is None:
            return None
        return ServiceView(service, slices.get(key, ()), taken.get(key, ()))

    return cache.each_key("service views", view, services, slices, taken)


def remembered_views(
    services: Iterable[Service], slices: Iterable[EndpointSlice]
) -> VersionedMap[ObjectKey, ServiceView]:
    """Return Services with the slices that a component knew at an earlier time."""
    slices_by_service: dict[ObjectKey, list[EndpointSlice]] = {}
    for slice_ in slices:
        slices_by_service.setdefault((slice_.namespace, slice_.service_name), []).append(slice_)
    return VersionedMap(
        (service.key, ServiceView(service, tuple(slices_by_service.get(service.key, ()))))
        for service in services
    )


def _taken(services: Sequence[Service]) -> VersionedMap[ObjectKey, tuple[Claim, ...]]:
    """Return the ports of each Service that an earlier Service has at the same external address."""
    claimed: set[Claim] = set()
    taken_by_service: dict[ObjectKey, tuple[Claim, ...]] = {}
    for service in _reached_from_outside(services):
        outside = dict.fromkeys((*service.external_ips, *service.load_balancer_ips))
        claims = [
            (address, port.protocol, port.port)
            for address in outside
            for port in service.spec.ports
        ]
        if taken := tuple(claim for claim in claims if claim in claimed):
            taken_by_service[service.key] = taken
        claimed.update(claims)
    return VersionedMap(taken_by_service)


def reached_from_outside(cluster: Cluster) -> Sequence[Service]:
    """Return the Services with external addresses: external IPs, or those of a load balancer."""
    return cluster.index(Service, _reached_from_outside)


def _reached_from_outside(services: Sequence[Service]) -> Sequence[Service]:
    return [
        service
        for service in services
        if service.spec.external_ips or service.status.load_balancer.ingress
    ]
