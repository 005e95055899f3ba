"""kube-proxy: stop the kube-proxy of one node, cut off its watch, or misconfigure it.

how=stopped (default)
    The process ends. The node keeps its rules and misses every change: new Services do not work
    on it, new endpoints get no connections, and connections may go to pods that no longer exist.
    Ports 10256 and 10249 refuse connections; the pod of kube-proxy is in Error.
how=stale
    The process runs, but its watch of the API server is lost. The rules stay as with stopped, and
    the pod looks healthy. After two sync periods (10 s) /healthz answers 503, and load balancers
    that check it use other nodes.
how=misconfigured
    The kubeconfig points to another cluster with the same Services, whose pods have the range
    that follows podSubnet. That range is also its clusterCIDR. The pod looks healthy, but on this
    node Services lead to pod addresses that do not exist.

How to diagnose:
    kubenetlab diff                      rules that the node lacks, and rules that are wrong
    kubenetlab ping                      from a pod of that node, and from one of another node
    kubenetlab get pods -n kube-system   state of its pod; then its log, and /healthz on port 10256

With stopped and stale, change something first, for example with `kubenetlab scale`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import ClassVar, Literal

from msgspec import structs

from kubenetlab.api.config import Network
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.faults import FaultSpec, StoppedPods
from kubenetlab.api.lab import SYNC_PERIOD_S, NetworkFacts, ProxySnapshot
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.store import Change, Cluster
from kubenetlab.api.values import ip
from kubenetlab.controllers.cluster.kube_proxy import LABELS, NAMESPACE
from kubenetlab.datapath.faults import BreakOptions, unknown_node
from kubenetlab.datapath.modes import proxy_mode
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy_views import ProxyView
from kubenetlab.datapath.services.view import ServiceView, remembered_views

_MEANS = {
    "stopped": "is stopped: the node keeps its rules, and misses every change",
    "stale": "has lost its watch of the API server: the node keeps its rules",
    "misconfigured": "reads another cluster: its Services lead to addresses that do not exist",
}
"""Value of `how` → end of the fault's summary."""


class Break(BreakOptions, frozen=True):
    """Options `node` and `how`.

    node: name of the node whose kube-proxy breaks.
    how: stopped (or stop) | stale | misconfigured. Default: stopped.
    """

    value_aliases: ClassVar = {"stop": "stopped"}

    node: str
    how: Literal["stopped", "stale", "misconfigured"] = "stopped"

    def why_impossible(self, cluster: Cluster) -> str:
        facts = cluster.get(NetworkFacts, "", "network")
        if facts is not None and not facts.has_proxy:
            return "this cluster has no kube-proxy (kubeProxyMode: none)"
        return unknown_node(cluster, self.node)

    def spec(self) -> FaultSpec:
        stops = (StoppedPods(self.node, NAMESPACE, LABELS),) if self.how == "stopped" else ()
        options = {"node": self.node, "how": self.how}
        return FaultSpec(
            fault="kube-proxy",
            options=options,
            node=self.node,
            summary=f"kube-proxy on {self.node} {_MEANS[self.how]}",
            stops=stops,
        )

    def snapshots(self, cluster: Cluster, name: str, now: float) -> Iterator[Change]:
        if self.how != "misconfigured":
            mode, options = proxy_mode(cluster.config.networking)
            yield ProxySnapshot(
                metadata=ObjectMeta(name=self.node),
                fault=name,
                services=tuple(cluster.all(Service)),
                slices=tuple(cluster.all(EndpointSlice)),
                proxy_mode=mode,
                proxy_options=dict(options),
                overdue_at=now + 2 * SYNC_PERIOD_S,
            )

    def kube_proxy_view(self, cluster: Cluster, view: ProxyView, cache: PlanCache) -> ProxyView:
        if self.how == "misconfigured":
            return _elsewhere(cluster, structs.replace(view, node=self.node), cache)
        last = cluster.get(ProxySnapshot, "", self.node)
        if last is None:
            return view
        services = cache.by_identity(
            ("last view", self.node),
            lambda: remembered_views(last.services, last.slices),
            last.services,
            last.slices,
        )
        lost = "Watch of Services and EndpointSlices is lost: keeping the last known state"
        stale = f"No update received for {2 * SYNC_PERIOD_S} s: the rules may be stale"
        return ProxyView(
            services,
            node=self.node,
            mode=(last.proxy_mode, last.proxy_options),
            is_healthy=self.how == "stale" and not last.is_overdue,
            log=(lost, stale) if last.is_overdue else (lost,),
        )


def _elsewhere(cluster: Cluster, view: ProxyView, cache: PlanCache) -> ProxyView:
    """Return the view in a cluster whose pods have the range that follows this cluster's."""
    ranges = cluster.config.networking.pod_networks
    services = cache.each(("elsewhere", view.node), _moved_view, view.services, ranges)
    return structs.replace(
        view, services=services, cluster_cidrs=tuple(str(_twin(network)) for network in ranges)
    )


def _moved_view(view: ServiceView, ranges: tuple[Network, ...]) -> ServiceView:
    """Return a Service with endpoints in the other ranges."""
    return structs.replace(view, slices=tuple(_moved(slice_, ranges) for slice_ in view.slices))


def _moved(slice_: EndpointSlice, ranges: tuple[Network, ...]) -> EndpointSlice:
    """Return a slice with its endpoints in the other ranges."""
    if not any(slice_.address_type == f"IPv{network.version}" for network in ranges):
        return slice_
    endpoints = (
        structs.replace(
            endpoint,
            addresses=tuple(_moved_address(address, ranges) for address in endpoint.addresses),
        )
        for endpoint in slice_.endpoints
    )
    return structs.replace(slice_, endpoints=tuple(endpoints))


def _moved_address(address: str, ranges: tuple[Network, ...]) -> str:
    parsed = ip_address(address)
    own_range = next(
        (network for network in ranges if network.version == parsed.version and parsed in network),
        None,
    )
    return (
        address
        if own_range is None
        else str(_twin(own_range)[int(parsed) - int(own_range.network_address)])
    )


def _twin(network: Network) -> Network:
    """Return the range of the same size that follows, or the one before at the end of the space."""
    step = network.num_addresses
    first = int(network.network_address)
    is_last = first + step >= 2**network.max_prefixlen
    twin = first - step if is_last else first + step
    address = ip_address(twin.to_bytes(network.max_prefixlen // 8))
    return ip.network(f"{address}/{network.prefixlen}")
