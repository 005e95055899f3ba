"""Knowledge of each node's kube-proxy, and its consequences: rules, health, endpoint counts.

Without a fault every kube-proxy has the same view of the cluster. A fault gives the kube-proxy of
one node its own view: the last one before it was stopped, or that of another cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from msgspec import Struct, structs

from kubenetlab.api.core import Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.allocation.node_ports import needs_health_check
from kubenetlab.datapath import faults
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.program_config import ProgramConfig
from kubenetlab.datapath.services.view import (
    ServiceView,
    is_proxied,
    remembered_views,
    service_views,
)
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs.kube_proxy_events import RuleCounts
from kubenetlab.versioned import ChangedEntries, VersionedMap

PROGRAM = "kube_proxy"
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
"""Taint of a node that accepts no new traffic from load balancers.

Source: k8s.io/kubernetes pkg/proxy/healthcheck/proxy_health.go.
"""


class ProxyView(Struct, frozen=True):
    """View of the cluster of one kube-proxy."""

    services: VersionedMap[ObjectKey, ServiceView]
    """Services by namespace and name, in order."""
    node: str = ""
    """Node that alone has this view; empty for the view that all others share."""
    mode: tuple[str, JsonMapping] | None = None
    """Its mode and options where they differ from the cluster's; else None."""
    cluster_cidrs: tuple[str, ...] = ()
    """Ranges that it takes for pod addresses, where they are wrong."""
    is_healthy: bool = True
    """False when it does not run, or its rules are stale."""
    log: tuple[str, ...] = ()
    """Lines of its log about its state."""

    def network(self, network: PodNetwork) -> PodNetwork:
        """Return the pod network as this kube-proxy assumes it to be."""
        return (
            structs.replace(network, cluster_cidrs=self.cluster_cidrs)
            if self.cluster_cidrs
            else network
        )


class ProxyViews(Struct, frozen=True):
    """View of the cluster of each node's kube-proxy."""

    shared: ProxyView
    own: Mapping[str, ProxyView]
    """Views of the nodes where a fault has changed it."""

    def of(self, node: str) -> ProxyView:
        """Return the view of a node's kube-proxy."""
        return self.own.get(node, self.shared)


class ProxyStats(Struct, frozen=True):
    """Counts of the Services that a kube-proxy knows, and Services that need a check per node."""

    proxied: int
    """Number of Services with rules."""
    endpoints: int
    """Number of their ready endpoints."""
    local: VersionedMap[ObjectKey, ServiceView]
    """Services with rules for which a traffic policy is Local."""
    checked: VersionedMap[ObjectKey, ServiceView]
    """Services whose load balancers ask each node whether it has endpoints."""


def proxy_views(cluster: Cluster, cache: PlanCache) -> ProxyViews:
    """Return the view of each node's kube-proxy."""
    shared = ProxyView(service_views(cluster, cache))
    own = {view.node: view for view in _last_views(cluster, cache)}
    for fault, fault_type in faults.active_faults(cluster):
        node = fault.spec.node
        before = own.get(node, shared)
        view = fault_type.kube_proxy_view(cluster, before, cache)
        if view is not before:
            own[node] = view
    return ProxyViews(shared, own)


def _last_views(cluster: Cluster, cache: PlanCache) -> Iterator[ProxyView]:
    """Yield the views of stopped agents of a CNI plugin that implements Services itself."""
    facts = cluster.get(NetworkFacts, "", "network")
    if facts is None or facts.has_proxy:
        return
    for state in cluster.all(StoppedAgent):
        services = cache.by_identity(
            ("last services", state.name),
            partial(remembered_views, state.services, state.slices),
            state,
        )
        yield ProxyView(services, node=state.name, is_healthy=False)


def proxy_stats(view: ProxyView, cache: PlanCache) -> ProxyStats:
    """Return the counts of a view, updated by the changes since the last call."""
    return cache.follow(("proxy stats", view.node), _updated_stats, view.services)


def _updated_stats(
    former: ProxyStats | None, news: ChangedEntries[ObjectKey, ServiceView]
) -> ProxyStats:
    former = former or ProxyStats(0, 0, VersionedMap(), VersionedMap())
    counted = [(sign, pair[side]) for pair in news.values() for side, sign in ((0, -1), (1, 1))]
    proxied = [
        (sign, view) for sign, view in counted if view is not None and _has_rules(view.service)
    ]
    return ProxyStats(
        former.proxied + sum(sign for sign, _ in proxied),
        former.endpoints + sum(sign * view.ready for sign, view in proxied),
        former.local.with_changes(
            {
                key: view if view and _is_local(view.service) else None
                for key, (_, view) in news.items()
            }
        ),
        former.checked.with_changes(
            {
                key: view if view and _is_checked(view.service) else None
                for key, (_, view) in news.items()
            }
        ),
    )


def kube_proxy_config(node: Node, view: ProxyView, stats: ProxyStats, mode: str) -> ProgramConfig:
    """Return the configuration of the kube-proxy process on a node.

    It holds the health checks of Services that it answers, and whether it is healthy itself.
    stats: those of `view`. mode: the cluster's proxy mode.
    """
    checked = stats.checked.values()
    checks = [
        {
            "port": service_view.service.spec.health_check_node_port,
            "namespace": service_view.service.namespace,
            "name": service_view.service.name,
            "endpoints": local_endpoints(service_view, node.name),
        }
        for service_view in checked
    ]
    options = {
        "mode": view.mode[0] if view.mode is not None else mode,
        "healthy": view.is_healthy,
        "log": list(view.log),
        "families": ["IPv6" if ":" in address else "IPv4" for address in node.addresses],
        "eligible": not any(taint.key == LEAVING_TAINT for taint in node.spec.taints),
        "checks": checks,
    }
    return ProgramConfig(
        PROGRAM,
        options,
        tuple(
            ListenPort("TCP", service_view.service.spec.health_check_node_port)
            for service_view in checked
        ),
    )


def passes_health_check(proxy: ProxyView, node: str, service: Service) -> bool:
    """Return True if the node's health check of a Service tells load balancers to send traffic.

    proxy: view of the node's kube-proxy.
    """
    view = proxy.services.get(service.key) if proxy.is_healthy else None
    return view is not None and local_endpoints(view, node) > 0


def local_endpoints(view: ServiceView, node: str) -> int:
    """Return the number of ready endpoints on a node, in the Service's primary family.

    Terminating endpoints do not count.
    """
    return sum(
        endpoint.node_name == node
        and endpoint.conditions.is_ready
        and not endpoint.conditions.is_terminating
        for endpoint in view.endpoints
    )


def rule_counts(stats: ProxyStats, node: str) -> RuleCounts:
    """Return what the rules of a node's kube-proxy cover."""
    lost = [
        service_view.service.spec
        for service_view in stats.local.values()
        if service_view.ready and not local_endpoints(service_view, node)
    ]
    return RuleCounts(
        stats.proxied,
        stats.endpoints,
        sum(spec.internal_traffic_policy == "Local" for spec in lost),
        sum(spec.external_traffic_policy == "Local" for spec in lost),
    )


def changes(before: ProxyView | None, after: ProxyView) -> tuple[int, int]:
    """Return the numbers of Services and of their slices that differ between two views."""
    pairs = tuple(
        after.services.changes_since(before.services if before is not None else {}).values()
    )
    services = sum(
        (old.service if old else None) != (new.service if new else None) for old, new in pairs
    )
    slices: int = sum(
        _differing(
            {slice_.key: slice_ for slice_ in (old.slices if old else ())},
            new.slices if new else (),
        )
        for old, new in pairs
    )
    return services, slices


def _differing(before: dict[tuple[str, str], EndpointSlice], after: Sequence[EndpointSlice]) -> int:
    """Return the number of slices that were added, changed or removed."""
    return len(before.keys() - {slice_.key for slice_ in after}) + sum(
        before.get(slice_.key) != slice_ for slice_ in after
    )


def _has_rules(service: Service) -> bool:
    return bool(service.cluster_ips) and is_proxied(service)


def _is_checked(service: Service) -> bool:
    return bool(service.spec.health_check_node_port) and needs_health_check(service.spec)


def _is_local(service: Service) -> bool:
    return _has_rules(service) and "Local" in (
        service.spec.internal_traffic_policy,
        service.spec.external_traffic_policy,
    )
