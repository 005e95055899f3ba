"""What each node's kube-proxy knows of the cluster, and what follows from that: its rules, its health, how many endpoints it counts.

As long as nothing is broken every kube-proxy knows the same. A fault gives one a view of its own: the last one before it was
stopped, or another cluster's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct, structs

from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.node_ports import needs_health_check
from kubenetlab.datapath import faults
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.proxy.services import is_proxied
from kubenetlab.datapath.view import ServiceView, service_views
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.versioned import VersionedMap

PROGRAM = "kube_proxy"
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
"""A node with it takes nothing new in. Source: k8s.io/kubernetes pkg/proxy/healthcheck/proxy_health.go."""


_Key = tuple[str, str]


class ProxyView(Struct, frozen=True):
    """One kube-proxy's knowledge."""

    services: VersionedMap[_Key, ServiceView]
    """By namespace and name, in order."""
    whose: str = ""
    """The node whose alone this view is; empty for the one that all share."""
    mode: tuple[str, Mapping[str, Any]] | None = None
    """In which mode it runs, where that is not the cluster's any more, and its options."""
    cluster_cidrs: tuple[str, ...] = ()
    """What it takes for pods' addresses, where that is wrong."""
    is_healthy: bool = True
    """False when it does not run, or its rules are stale."""
    log: tuple[str, ...] = ()
    """What it says of its state."""

    def network(self, network: PodNetwork) -> PodNetwork:
        """The pods' network as it takes it to be."""
        return (
            structs.replace(network, cluster_cidrs=self.cluster_cidrs)
            if self.cluster_cidrs
            else network
        )


class ProxyStats(Struct, frozen=True):
    """What is counted of the Services that a kube-proxy knows, and which of them are looked at one by one."""

    services: VersionedMap[_Key, ServiceView]
    proxied: int
    """How many have rules."""
    endpoints: int
    """How many ready endpoints those have."""
    local: VersionedMap[_Key, ServiceView]
    """Those of them that some traffic reaches by endpoints on its own node alone."""
    checked: VersionedMap[_Key, ServiceView]
    """The Services whose load balancers ask each node whether it has endpoints."""


class KubeProxyConfig(Struct, frozen=True):
    """What a kube-proxy's process is told beside its manifest."""

    options: Mapping[str, Any]
    listeners: tuple[ListenPort, ...]


def proxy_view(cluster: Cluster, node: str) -> ProxyView:
    """What the kube-proxy of a node knows."""
    views: dict[str, ProxyView] = cluster.derived("proxy views", lambda: _views(cluster))
    return views.get(node, views[""])


def tally(cluster: Cluster, view: ProxyView) -> ProxyStats:
    """What is counted of a view of this store: from what it was before the last change, and what has changed."""
    found: ProxyStats = cluster.renewed(("tally", view.whose), partial(_tally, view.services))
    return found


def _tally(services: VersionedMap[_Key, ServiceView], former: ProxyStats | None) -> ProxyStats:
    former = former or ProxyStats(VersionedMap(), 0, 0, VersionedMap(), VersionedMap())
    news = services.news(former.services)
    counted = [(sign, pair[side]) for pair in news.values() for side, sign in ((0, -1), (1, 1))]
    proxied = [
        (sign, known) for sign, known in counted if known is not None and _has_rules(known.service)
    ]
    return ProxyStats(
        services,
        former.proxied + sum(sign for sign, _ in proxied),
        former.endpoints + sum(sign * known.ready for sign, known in proxied),
        former.local.with_changes(
            {
                key: known if known and _is_local(known.service) else None
                for key, (_, known) in news.items()
            }
        ),
        former.checked.with_changes(
            {
                key: known if known and _is_checked(known.service) else None
                for key, (_, known) in news.items()
            }
        ),
    )


def _views(cluster: Cluster) -> dict[str, ProxyView]:
    """By node those that have one of their own; for all others the one of no node."""
    found = {"": ProxyView(service_views(cluster))}
    for fault, broken in faults.of(cluster):
        found[fault.spec.node] = broken.kube_proxy_sees(
            cluster, found.get(fault.spec.node, found[""])
        )
    return found


def duty(cluster: Cluster, node: str, mode: str) -> KubeProxyConfig:
    """What the process on a node is told: where Services' health is asked for, and whether it is well itself."""
    view = proxy_view(cluster, node)
    known = cluster.node(node)
    checked = tally(cluster, view).checked.values()
    checks = [
        {
            "port": one.service.spec.health_check_node_port,
            "namespace": one.service.namespace,
            "name": one.service.name,
            "endpoints": local_endpoints(one, node),
        }
        for one in checked
    ]
    options = {
        "mode": view.mode[0] if view.mode is not None else mode,
        "healthy": view.is_healthy,
        "log": list(view.log),
        "families": ["IPv6" if ":" in address else "IPv4" for address in known.addresses]
        if known is not None
        else [],
        "eligible": known is None
        or not any(taint.key == LEAVING_TAINT for taint in known.spec.taints),
        "checks": checks,
    }
    return KubeProxyConfig(
        options,
        tuple(ListenPort("TCP", one.service.spec.health_check_node_port) for one in checked),
    )


def informed(run: ProgramRun, told: KubeProxyConfig | None) -> ProgramRun:
    """A kube-proxy's process with what it is told; any other as it is."""
    if told is None or run.program != PROGRAM:
        return run
    return structs.replace(
        run, options={**run.options, **told.options}, listeners=(*run.listeners, *told.listeners)
    )


def passes(cluster: Cluster, node: str, service: Service) -> bool:
    """True when a load balancer that asks the node about a Service hears that it may send: what the process answers there."""
    known = proxy_view(cluster, node)
    view = known.services.get(service.key) if known.is_healthy else None
    return view is not None and local_endpoints(view, node) > 0


def local_endpoints(view: ServiceView, node: str) -> int:
    """How many ready endpoints a Service has on a node, in its primary family; those that are going do not count."""
    return sum(
        endpoint.node_name == node
        and endpoint.conditions.is_ready
        and not endpoint.conditions.is_terminating
        for endpoint in view.endpoints
    )


def summary(cluster: Cluster, node: str) -> dict[str, Any]:
    """What a sync is about: how many Services, how many ready endpoints, and how many Services a policy leads nowhere from this node."""
    found = tally(cluster, proxy_view(cluster, node))
    lost = [
        known.service.spec
        for known in found.local.values()
        if known.ready and not local_endpoints(known, node)
    ]
    return {
        "services": found.proxied,
        "endpoints": found.endpoints,
        "no_local": {
            "internal": sum(spec.internal_traffic_policy == "Local" for spec in lost),
            "external": sum(spec.external_traffic_policy == "Local" for spec in lost),
        },
    }


def changes(before: ProxyView | None, after: ProxyView) -> dict[str, int]:
    """How many Services and how many of their slices differ between two views."""
    pairs = tuple(after.services.news(before.services if before is not None else {}).values())
    services = sum(
        (old.service if old else None) != (new.service if new else None) for old, new in pairs
    )
    slices: int = sum(
        _differing(
            {piece.key: piece for piece in (old.slices if old else ())}, new.slices if new else ()
        )
        for old, new in pairs
    )
    return {"service_changes": services, "endpoint_changes": slices}


def _differing(before: dict[tuple[str, str], EndpointSlice], after: Sequence[EndpointSlice]) -> int:
    """How many slices are others, are new, or are gone."""
    return len(before.keys() - {piece.key for piece in after}) + sum(
        before.get(piece.key) != piece for piece in after
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
