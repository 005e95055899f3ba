"""Addresses of Services that nodes may announce by BGP."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.plugins.kube_router import ADVERTISE_ANNOTATIONS, LOCAL_ANNOTATION, AddressKind
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.services.view import is_proxied


class ServiceAddress(Struct, frozen=True):
    """One address of a Service."""

    address: str
    kind: AddressKind
    requested: bool | None
    """Value of kube-router's annotation for this kind of address; None without one."""
    is_external_local: bool
    """True if externalTrafficPolicy is Local."""
    nodes: tuple[str, ...] | None
    """Nodes with a ready endpoint, if only those announce the address; None for all nodes."""

    @property
    def prefix(self) -> str:
        return f"{self.address}/{128 if ':' in self.address else 32}"


def announced_addresses(
    cluster: Cluster, agent: CniAgent | None, cache: PlanCache
) -> tuple[ServiceAddress, ...]:
    """Return the addresses of Services that the agent of a CNI plugin may announce."""
    if agent is None or not agent.announces_services:
        return ()
    inputs = (cluster.by_key(Service), cluster.by_key(EndpointSlice))
    return cache.by_identity("service addresses", lambda: service_addresses(cluster), *inputs)


def service_addresses(cluster: Cluster) -> tuple[ServiceAddress, ...]:
    """Return the addresses of all Services that nodes implement, in order."""
    return tuple(
        address for service in cluster.all(Service) for address in _of_service(cluster, service)
    )


def _of_service(cluster: Cluster, service: Service) -> Iterator[ServiceAddress]:
    if not is_proxied(service):
        return
    spec, annotations = service.spec, service.metadata.annotations
    requests = {
        kind: annotations[key] == "true"
        for key, kind in ADVERTISE_ANNOTATIONS.items()
        if key in annotations
    }
    is_external_local = spec.external_traffic_policy == "Local"
    is_local = is_external_local or LOCAL_ANNOTATION in annotations
    by_kind: tuple[tuple[AddressKind, tuple[str, ...]], ...] = (
        ("clusterip", service.cluster_ips),
        ("externalip", service.external_ips),
        ("loadbalancerip", service.virtual_ips),
    )
    for kind, addresses in by_kind:
        needs_endpoint = is_local or (
            kind == "clusterip" and spec.internal_traffic_policy == "Local"
        )
        nodes = _nodes_with_endpoints(cluster, service) if needs_endpoint else None
        for address in addresses:
            yield ServiceAddress(address, kind, requests.get(kind), is_external_local, nodes)


def _nodes_with_endpoints(cluster: Cluster, service: Service) -> tuple[str, ...]:
    nodes = {
        endpoint.node_name
        for slice_ in cluster.slices_of(service)
        for endpoint in slice_.endpoints
        if endpoint.node_name
        and endpoint.conditions.is_ready
        and not endpoint.conditions.is_terminating
    }
    return tuple(sorted(nodes))
