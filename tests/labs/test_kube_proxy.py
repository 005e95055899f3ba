"""kube-proxy as a component: a pod on each node, log, health, metrics, health check ports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clusters import DUAL, deployment, pod, service
from tests.labs.conftest import new_lab
from tests.labs.http_client import HttpReply, http_get
from tests.labs.lab import Lab, wait_for

HEALTH, METRICS = 10256, 10249
CLIENT = pod("client", spec=", nodeName: worker")
LOCAL = service("local", 80, "http", type="LoadBalancer", externalTrafficPolicy="Local").replace(
    "app: local", "app: web"
)


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield a lab with two pods of `web` on worker2, a Service and a load balancer.

    The load balancer has externalTrafficPolicy Local.
    """
    for lab in new_lab():
        lab.up(DUAL + CLIENT + deployment(replicas=2, nodeName="worker2") + service() + LOCAL)
        yield lab


def kube_proxy(lab: Lab, node: str) -> Any:
    return next(pod for pod in lab.pods("kube-proxy", "kube-system") if pod["node"] == node)


def log(lab: Lab, node: str) -> list[str]:
    """Return the lines of a kube-proxy's log without their times."""
    return [
        line.partition(" ")[2]
        for line in lab.run(
            "logs", "-n", "kube-system", kube_proxy(lab, node)["name"]
        ).out.splitlines()
    ]


def get(
    lab: Lab, node: str, path: str = "/healthz", port: int = HEALTH, *, source: str = ""
) -> HttpReply:
    """Return the response of a node's kube-proxy.

    Metrics are served only on the node's localhost.
    """
    place = lab.place("nodes", node)
    address = "127.0.0.1" if port == METRICS else place["addresses"][0]
    return http_get(lab, lab.place("nodes", source or node), address, port, path)


def metrics(lab: Lab, node: str) -> dict[str, float]:
    """Return each series with its value."""
    lines = get(lab, node, "/metrics", METRICS).body.splitlines()
    return {
        name: float(value)
        for line in lines
        if not line.startswith("#")
        for name, _, value in [line.rpartition(" ")]
    }


def health_port(lab: Lab) -> int:
    return int(lab.get("service", "local")["spec"]["healthCheckNodePort"])


def test_each_node_has_a_kube_proxy_in_its_network(running: Lab) -> None:
    """It is a pod of a DaemonSet with the node's addresses and without a link of its own."""
    pods = running.pods("kube-proxy", "kube-system")
    nodes = {node["name"]: node for node in running.inspected["nodes"]}
    assert sorted(pod["node"] for pod in pods) == sorted(nodes)
    assert all(
        pod["ready"]
        and pod["addresses"] == nodes[pod["node"]]["addresses"]
        and pod["host_ifname"] is None
        for pod in pods
    )
    assert {pod["workload"] for pod in pods} == {"DaemonSet/kube-proxy"}
    assert running.get("daemonset", "kube-proxy", "-n", "kube-system")["status"]["numberReady"] == 3


def test_a_deleted_kube_proxy_is_recreated(running: Lab) -> None:
    """The DaemonSet, its pods and their ports are restored."""
    before = {pod["sandbox"] for pod in running.pods("kube-proxy", "kube-system")}
    running.run("delete", "daemonset", "kube-proxy", "-n", "kube-system")
    wait_for(
        lambda: (
            len(
                [
                    pod
                    for pod in running.inspected["pods"]
                    if pod["host_network"] and pod["ready"] and pod["sandbox"] not in before
                ]
            )
            == 3
        ),
        "new pods",
    )
    assert get(running, "worker").status == 200


def test_health_is_served_to_all_and_metrics_only_to_the_node(running: Lab) -> None:
    """As upstream, 10256 is served on all addresses of both families, and 10249 on 127.0.0.1."""
    worker, client = running.place("nodes", "worker"), running.place("external", "client")
    for address in worker["addresses"]:
        reply = http_get(running, client, address, HEALTH, "/healthz")
        assert (reply.status, reply.json.keys()) == (
            200,
            {"lastUpdated", "currentTime", "nodeEligible"},
        )
        assert reply.json["nodeEligible"] is True
    assert get(running, "worker", "/livez").json.keys() == {"lastUpdated", "currentTime"}
    assert get(running, "worker", "/nothing").status == 404
    assert get(running, "worker", "/proxyMode", METRICS).body == "nftables"
    assert get(running, "worker", "/healthz", METRICS).body == "ok"
    assert (
        http_get(running, worker, worker["addresses"][0], METRICS, "/metrics").error
        == "ConnectionRefusedError"
    )


def test_each_sync_is_logged_and_counted(running: Lab) -> None:
    """The log has a line for it; the metrics count it, with the changed endpoints."""
    before = metrics(running, "worker")
    running.run("scale", "deployment", "web", "--replicas", "4")
    wait_for(
        lambda: any("with 10 endpoints" in line for line in log(running, "worker")),
        "a log entry with ten endpoints",
    )
    assert re.fullmatch(
        r"Synced 4 Services with 10 endpoints in [\d.]+ ms", log(running, "worker")[-1]
    )
    after = metrics(running, "worker")
    count = 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
    assert after[count] > before[count]
    assert (
        after['kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="+Inf"}']
        == after[count]
    )
    assert (
        after["kubeproxy_sync_proxy_rules_endpoint_changes_total"]
        > before["kubeproxy_sync_proxy_rules_endpoint_changes_total"]
    )
    assert (
        after["kubeproxy_sync_proxy_rules_service_changes_total"]
        == before["kubeproxy_sync_proxy_rules_service_changes_total"]
    )
    no_local_endpoints = (
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        '{ip_family="IPv4",traffic_policy="external"}'
    )
    assert (after[no_local_endpoints], metrics(running, "worker2")[no_local_endpoints]) == (1, 0)
    running.run("scale", "deployment", "web", "--replicas", "2")
    wait_for(lambda: len(running.pods("web")) == 2, "two pods again")


def test_health_check_ports_report_local_endpoints(running: Lab) -> None:
    """Every node answers on any path, with the count in body and header.

    A packet from outside keeps its source address.
    """
    replies = {
        node: get(running, node, "/any/path", health_port(running))
        for node in ("control-plane", "worker", "worker2")
    }
    assert {node: reply.status for node, reply in replies.items()} == {
        "control-plane": 503,
        "worker": 503,
        "worker2": 200,
    }
    service_ = {"namespace": "default", "name": "local"}
    assert replies["worker2"].json == {
        "service": service_,
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert replies["worker"].json == {
        "service": service_,
        "localEndpoints": 0,
        "serviceProxyHealthy": True,
    }
    assert [
        replies[node].headers["x-load-balancing-endpoint-weight"] for node in ("worker", "worker2")
    ] == ["0", "2"]
    client, address = (
        running.place("external", "client"),
        running.service("local")["load_balancer_ips"][0],
    )
    (answer,) = running.ask(client, ("TCP", address, 80))
    assert answer.client[0] == answer.source[0] == client["addresses"][0]


def test_a_node_without_endpoints_answers_503(running: Lab) -> None:
    """It answers 200 again with new endpoints."""
    running.run("scale", "deployment", "web", "--replicas", "0")
    wait_for(
        lambda: get(running, "worker2", "/", health_port(running)).status == 503, "no endpoint"
    )
    assert get(running, "worker2", "/", health_port(running)).json["localEndpoints"] == 0
    running.run("scale", "deployment", "web", "--replicas", "2")
    wait_for(
        lambda: get(running, "worker2", "/", health_port(running)).status == 200,
        "endpoints again",
    )


def test_the_health_check_port_is_closed_with_its_service(running: Lab) -> None:
    """The log reports it."""
    port = health_port(running)
    running.run("delete", "service", "local")
    wait_for(
        lambda: get(running, "worker", "/", port).error == "ConnectionRefusedError",
        "the port to be closed",
    )
    assert f"Closing health check of Service default/local on port {port}" in log(running, "worker")
    running.apply(LOCAL)
    wait_for(lambda: get(running, "worker", "/", port).status == 503, "the port to be open")


def test_metrics_survive_the_agent_and_restart_with_the_worker(running: Lab) -> None:
    """The counts belong to the worker process.

    A new worker logs the current rules.
    """
    count = 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
    before = metrics(running, "worker")[count]
    assert before > 0
    running.kill("agent")
    assert metrics(running, "worker")[count] >= before
    for role in ("worker-0", "worker-1", "worker-2"):
        running.kill(role)
    wait_for(
        lambda: any(
            line.startswith("Rules in force: 4 Services") for line in log(running, "worker")
        ),
        "a log entry about the current rules",
    )
    assert metrics(running, "worker")[count] < before
    assert get(running, "worker").status == 200


def test_the_mode_none_has_no_kube_proxy(lab: Lab) -> None:
    """There are neither pods nor a DaemonSet nor an open port."""
    lab.up(CLIENT, "--proxy", "none")
    assert [pod for pod in lab.inspected["pods"] if pod["name"].startswith("kube-proxy")] == []
    assert lab.get("daemonsets", "-A")["items"] == []
    assert get(lab, "worker").error == "ConnectionRefusedError"
