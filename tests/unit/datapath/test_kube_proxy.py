"""kube-proxy as a component: its DaemonSet, its configuration, and its HTTP endpoints."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from kubenetlab.api.apps import DaemonSet
from kubenetlab.api.core import Service
from kubenetlab.api.lab import SYNC_PERIOD_S, ContainerReport
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.kube_proxy import is_kube_proxy
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.program_config import ProgramConfig
from kubenetlab.datapath.proxy_views import (
    ProxyStats,
    ProxyView,
    changes,
    kube_proxy_config,
    passes_health_check,
    proxy_stats,
    proxy_views,
    rule_counts,
)
from kubenetlab.programs import kube_proxy
from kubenetlab.programs.kube_proxy import HEALTH_PORT, METRICS_PORT
from kubenetlab.programs.kube_proxy_events import RuleCounts, SyncEvent, SyncFailed, SyncSucceeded
from kubenetlab.programs.support.http import ProgramContext, Request, Response
from tests.clusters import NOW, applied, deployment, pod_named, report, running, service, store

LOCAL = service("web", 80, "http", type="LoadBalancer", externalTrafficPolicy="Local")
NO_PROXY = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {kubeProxyMode: none}\n---\n"
)
SYNCED = SyncSucceeded(NOW, 3.0, RuleCounts(12, 1, 0, 1), service_changes=2, endpoint_changes=5)


@dataclass
class Process:
    """One kube-proxy process with a controlled clock."""

    options: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    now: float = NOW
    memory: kube_proxy.ProxyState = field(default_factory=kube_proxy.initial_state)

    @property
    def me(self) -> ProgramContext:
        none: Any = None
        return ProgramContext(
            "kube-system",
            "kube-proxy-x",
            "worker",
            "172.18.0.3",
            "worker",
            "kube-proxy",
            self.options,
            none,
            self.lines.append,
            none,
            none,
            lambda: self.now,
            self.memory,
        )

    def configure(self, **options: Any) -> None:
        self.options = {"mode": "nftables", "families": ["IPv4"], **options}
        kube_proxy.on_options(self.me)

    def tell(self, event: SyncEvent) -> None:
        kube_proxy.on_event(event, self.me)

    def get(self, path: str, port: int = HEALTH_PORT) -> Response:
        return asyncio.run(
            kube_proxy.http(Request("GET", path, ("172.18.0.1", 40000), port=port), self.me)
        )


def proxies(cluster: Cluster) -> list[Pod]:
    return [pod for pod in cluster.all(Pod) if is_kube_proxy(pod)]


def test_a_cluster_has_a_kube_proxy_on_each_node_or_none() -> None:
    """The proxy mode decides, also when it changes in a running lab."""
    cluster = store()
    assert [pod.spec.node_name for pod in proxies(cluster)] == [
        "control-plane",
        "worker",
        "worker2",
    ]
    without = running(applied(running(cluster), NO_PROXY))
    assert (
        [pod for pod in proxies(without) if not pod.is_terminating],
        without.all(DaemonSet),
    ) == ([], ())
    assert store(NO_PROXY).all(DaemonSet) == ()


def view_of(cluster: Cluster, node: str = "worker") -> ProxyView:
    return proxy_views(cluster, PlanCache()).of(node)


def stats_of(view: ProxyView) -> ProxyStats:
    return proxy_stats(view, PlanCache())


def config_of(cluster: Cluster, name: str) -> ProgramConfig:
    """Return the configuration of a node's kube-proxy in a cluster with the mode nftables."""
    node, view = cluster.node(name), view_of(cluster, name)
    assert node is not None
    return kube_proxy_config(node, view, stats_of(view), "nftables")


def test_the_summary_counts_services_and_endpoints() -> None:
    """It also counts Services of which a policy Local leads to no endpoint on the node."""
    cluster = running(
        store(
            LOCAL
            + service("headless", clusterIP="None")
            + deployment(replicas=2, nodeName="worker2")
        )
    )
    stats = stats_of(view_of(cluster))
    assert rule_counts(stats, "worker") == RuleCounts(3, 4, 0, 1)
    assert rule_counts(stats, "worker2") == RuleCounts(3, 4, 0, 0)


def test_changes_are_counted_between_two_syncs() -> None:
    """In the first sync every Service is new."""
    text = service() + deployment(replicas=1)
    before = running(store(text))
    after = running(applied(before, text.replace("replicas: 1", "replicas: 2")))
    old, new = view_of(before), view_of(after)
    services, _ = changes(None, old)
    assert services == len(before.all(Service))
    assert changes(old, new) == (0, 1)
    assert changes(old, view_of(before)) == (0, 0)


def test_a_health_check_counts_ready_endpoints_of_the_node() -> None:
    """Endpoints of other nodes, unready and terminating endpoints do not count."""
    cluster = running(store(LOCAL + deployment(replicas=3, nodeName="worker")))
    web = cluster.get(Service, "default", "web")
    assert web is not None
    port = web.spec.health_check_node_port

    def counted(node: str) -> list[tuple[int, int]]:
        return [
            (check["port"], check["endpoints"])
            for check in config_of(cluster, node).options["checks"]
        ]

    assert (counted("worker"), counted("worker2")) == ([(port, 3)], [(port, 0)])
    view = view_of(cluster)
    assert [passes_health_check(view, node, web) for node in ("worker", "worker2")] == [
        True,
        False,
    ]
    first, second, _ = (pod.name for pod in cluster.select("default", {"app": "web"}))
    cluster = report(cluster, first, ContainerReport(0, "exited", exit_code=1, at=NOW), now=NOW)
    assert counted("worker") == [(port, 2)]
    assert not pod_named(cluster, first).is_ready
    cluster = running(applied(cluster, deployment(replicas=1, nodeName="worker")), only=[])
    assert counted("worker") == [(port, 1)]
    assert pod_named(cluster, second) is not None
    assert config_of(running(store(service())), "worker").options["checks"] == []


@pytest.mark.parametrize(
    ("options", "path", "status"),
    [
        ({}, "/healthz", 200),
        ({}, "/livez", 200),
        ({"healthy": False}, "/healthz", 503),
        ({"healthy": False}, "/livez", 503),
        ({"eligible": False}, "/healthz", 503),
        ({"eligible": False}, "/livez", 200),
        ({}, "/", 404),
    ],
)
def test_health_depends_on_the_process_and_on_the_node(
    options: dict[str, Any], path: str, status: int
) -> None:
    """A node that is being removed fails /healthz for load balancers, but not /livez."""
    process = Process()
    process.configure(**options)
    assert process.get(path).status == status


def test_a_kube_proxy_that_cannot_sync_becomes_unhealthy() -> None:
    """It does so two periods after the first failure, until the next sync. Texts are upstream's."""
    process = Process()
    process.configure()
    process.tell(SYNCED)
    process.tell(SyncFailed("no\nroom"))
    process.now += 2 * SYNC_PERIOD_S
    assert process.get("/healthz").status == 200
    process.now += 1
    response = process.get("/healthz")
    assert response.status == 503
    assert (
        response.body.decode()
        == '{"lastUpdated": "2023-11-14 22:13:20.000000 +0000 UTC", "currentTime": "2023-11-14 '
        '22:13:31.000000 +0000 UTC", "nodeEligible": true}'
    )
    process.tell(structs.replace(SYNCED, at=process.now))
    assert process.get("/healthz").status == 200
    assert process.lines == [
        "Using nftables Proxier on node worker",
        "Synced 12 Services with 1 endpoint in 3 ms",
        "Sync failed, will be retried: no room",
        "Synced 12 Services with 1 endpoint in 3 ms",
    ]


def test_each_service_has_a_health_check() -> None:
    """It answers at the Service's port, with 200 if it has endpoints and the proxy is healthy."""
    checks = [
        {"port": 30001, "namespace": "a", "name": "b", "endpoints": 2},
        {"port": 30002, "namespace": "c", "name": "d", "endpoints": 0},
    ]
    process = Process()
    process.configure(checks=checks)
    responses = [process.get("/x", port) for port in (30001, 30002, 30003)]
    assert [response.status for response in responses] == [200, 503, 404]
    assert (
        responses[0].body == b'{"service": {"namespace": "a", "name": "b"}, '
        b'"localEndpoints": 2, "serviceProxyHealthy": true}'
    )
    assert responses[0].headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    process.configure(checks=checks[:1], healthy=False)
    assert process.get("/", 30001).status == 503
    process.configure(checks=checks[:1], mode="iptables")
    assert process.lines[1:] == [
        "Opening health check of Service a/b on port 30001",
        "Opening health check of Service c/d on port 30002",
        "Closing health check of Service c/d on port 30002",
        "Using iptables Proxier on node worker",
    ]


def test_metrics_have_the_prometheus_format() -> None:
    """Buckets of the histogram are cumulative; syncs without a duration are left out."""
    process = Process()
    process.configure()
    for duration_ms in (3.0, 40.0, None):
        process.tell(structs.replace(SYNCED, duration_ms=duration_ms))
    process.get("/healthz")
    response = process.get("/metrics", METRICS_PORT)
    assert response.content_type.startswith("text/plain; version=0.0.4")
    lines = response.body.decode().splitlines()
    name = "kubeproxy_sync_proxy_rules_duration_seconds"
    assert [
        line
        for line in lines
        if line.startswith(name) and ('"0.002"' in line or '"0.004"' in line or "le=" not in line)
    ] == [
        f'{name}_bucket{{ip_family="IPv4",le="0.002"}} 0',
        f'{name}_bucket{{ip_family="IPv4",le="0.004"}} 1',
        f'{name}_sum{{ip_family="IPv4"}} 0.043000',
        f'{name}_count{{ip_family="IPv4"}} 2',
    ]
    assert "kubeproxy_sync_proxy_rules_service_changes_total 6" in lines
    assert (
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        '{ip_family="IPv4",traffic_policy="external"} 1' in lines
    )
    assert 'kubeproxy_proxy_healthz_total{code="200"} 1' in lines
    assert all(line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0 for line in lines)
