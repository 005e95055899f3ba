"""kube-proxy: the kube-proxy of one node is stopped, hears of nothing any more, or reads another cluster.

stopped        its process has ended. The node keeps the rules it had and misses every change: new Services do not exist for it, new
               endpoints get nothing, connections go to pods that are gone. 10256 and 10249 refuse, its pod is in Error.
stale          it runs, but its watch of the API server is lost. The rules stay as with stopped; the pod looks well. After two sync
               periods (10 s) /healthz answers 503, and load balancers that ask it go elsewhere.
misconfigured  its kubeconfig leads to a twin of the cluster: the same Services, but the pods behind them have the addresses of the
               range that follows on podSubnet, and that range is its clusterCIDR. It looks well, and Services lead nowhere from this node.

What to look at: `diff` for the rules that the node lacks or should not have; `ping` from a pod of that node, and from another's;
`get pods -n kube-system`, the log of its pod, /healthz on port 10256; and before, for stopped and stale: change something, such as `scale`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import ClassVar, Literal

from msgspec import structs

from kubenetlab.api import ip
from kubenetlab.api.config import Network
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.faults import FaultSpec, StoppedPods
from kubenetlab.api.lab import SYNC_PERIOD_S, NetworkFacts, ProxySnapshot
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.kube_proxy import LABELS, NAMESPACE
from kubenetlab.datapath.faults import BreakOptions
from kubenetlab.datapath.proxy_views import ProxyView
from kubenetlab.datapath.view import ServiceView
from kubenetlab.errors import did_you_mean
from kubenetlab.versioned import VersionedMap

_MEANS = {
    "stopped": "is stopped: the node keeps its rules, and misses every change",
    "stale": "hears of no change any more: the node keeps its rules",
    "misconfigured": "reads another cluster: its Services lead to addresses that nobody has",
}

_Views = VersionedMap[tuple[str, str], ServiceView]


class Break(BreakOptions, frozen=True):
    """node: whose kube-proxy.  how: stopped (stop), stale or misconfigured."""

    other_words: ClassVar = {"stop": "stopped"}

    node: str
    how: Literal["stopped", "stale", "misconfigured"] = "stopped"

    def refusal(self, cluster: Cluster) -> str:
        facts = cluster.get(NetworkFacts, "", "network")
        if facts is not None and not facts.has_proxy:
            return "this cluster has no kube-proxy (kubeProxyMode: none)"
        names = cluster.config.node_names
        return (
            ""
            if self.node in names
            else f'there is no node "{self.node}"{did_you_mean(self.node, names)}; known: {", ".join(names)}'
        )

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

    def remembered(self, cluster: Cluster, name: str, now: float) -> Iterator[Change]:
        if self.how != "misconfigured":
            mode, options = cluster.config.networking.proxy_mode
            yield ProxySnapshot(
                metadata=ObjectMeta(name=self.node),
                fault=name,
                services=tuple(cluster.all(Service)),
                slices=tuple(cluster.all(EndpointSlice)),
                proxy_mode=mode,
                proxy_options=dict(options),
                overdue_at=now + 2 * SYNC_PERIOD_S,
            )

    def kube_proxy_sees(self, cluster: Cluster, view: ProxyView) -> ProxyView:
        if self.how == "misconfigured":
            return _elsewhere(cluster, structs.replace(view, whose=self.node))
        last = cluster.get(ProxySnapshot, "", self.node)
        if last is None:
            return view
        services: _Views = cluster.derived(
            ("last view", self.node),
            lambda: _remembered(last.services, last.slices),
            (ProxySnapshot,),
        )
        lost = "Watch of Services and EndpointSlices is lost: going on with what is known"
        stale = f"No change has been heard of for {2 * SYNC_PERIOD_S} s: the rules may be stale"
        return ProxyView(
            services,
            whose=self.node,
            mode=(last.proxy_mode, last.proxy_options),
            is_healthy=self.how == "stale" and not last.is_overdue,
            log=(lost, stale) if last.is_overdue else (lost,),
        )


def _remembered(services: Iterable[Service], slices: Iterable[EndpointSlice]) -> _Views:
    behind: dict[tuple[str, str], list[EndpointSlice]] = {}
    for piece in slices:
        behind.setdefault((piece.namespace, piece.service_name), []).append(piece)
    return VersionedMap(
        (service.key, ServiceView(service, tuple(behind.get(service.key, ()))))
        for service in services
    )


def _elsewhere(cluster: Cluster, view: ProxyView) -> ProxyView:
    """The view in a cluster whose pods have the range behind this one's."""
    ranges = cluster.config.networking.pod_networks
    _, services = cluster.renewed(
        ("elsewhere", view.whose), partial(_all_moved, view.services, ranges)
    )
    return structs.replace(
        view, services=services, cluster_cidrs=tuple(str(_twin(network)) for network in ranges)
    )


def _all_moved(
    views: _Views, ranges: tuple[Network, ...], former: tuple[_Views, _Views] | None
) -> tuple[_Views, _Views]:
    """The Services as they are, and with their endpoints in the other ranges."""
    before, moved = former or (VersionedMap(), VersionedMap())
    changes = {
        key: structs.replace(known, slices=tuple(_moved(piece, ranges) for piece in known.slices))
        if known is not None
        else None
        for key, (_, known) in views.news(before).items()
    }
    return views, moved.with_changes(changes)


def _moved(piece: EndpointSlice, ranges: tuple[Network, ...]) -> EndpointSlice:
    if not any(piece.address_type == f"IPv{network.version}" for network in ranges):
        return piece
    endpoints = (
        structs.replace(
            endpoint,
            addresses=tuple(_moved_address(address, ranges) for address in endpoint.addresses),
        )
        for endpoint in piece.endpoints
    )
    return structs.replace(piece, endpoints=tuple(endpoints))


def _moved_address(address: str, ranges: tuple[Network, ...]) -> str:
    parsed = ip_address(address)
    home = next(
        (network for network in ranges if network.version == parsed.version and parsed in network),
        None,
    )
    return address if home is None else str(_twin(home)[int(parsed) - int(home.network_address)])


def _twin(network: Network) -> Network:
    """The range of the same size that follows; at the end of all addresses, the one before."""
    step = network.num_addresses
    first = int(network.network_address)
    is_last = first + step >= 2**network.max_prefixlen
    return ip.network(
        f"{ip_address((first - step if is_last else first + step).to_bytes(network.max_prefixlen // 8))}/{network.prefixlen}"
    )
