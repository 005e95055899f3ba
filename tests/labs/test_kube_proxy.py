"""kube-proxy as a component: a pod on each node, with a log, health, metrics, and an answer for
load balancers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clusters import DUAL, deployment, service
from tests.labs.asking import Said, ask
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for

HEALTH, METRICS = 10256, 10249
CLIENT = "apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec: {nodeName: worker, containers: [{name: c, image: agnhost, args: [pause]}]}\n---\n"
LOCAL = service("local", 80, "http", type="LoadBalancer", externalTrafficPolicy="Local").replace(
    "app: local", "app: web"
)


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Two pods of `web` on worker2, behind a Service and a load balancer that is to lead to nodes
    with endpoints.
    """
    for lab in new_lab():
        lab.up(DUAL + CLIENT + deployment(replicas=2, nodeName="worker2") + service() + LOCAL)
        yield lab


def proxy(lab: Lab, node: str) -> Any:
    return next(pod for pod in lab.pods("kube-proxy", "kube-system") if pod["node"] == node)


def log(lab: Lab, node: str) -> list[str]:
    """Without the times."""
    return [
        line.partition(" ")[2]
        for line in lab.run("logs", "-n", "kube-system", proxy(lab, node)["name"]).out.splitlines()
    ]


def answer(
    lab: Lab, node: str, path: str = "/healthz", port: int = HEALTH, *, source: str = ""
) -> Said:
    """What the kube-proxy of a node says: about its health to anybody, about its metrics on its own
    node.
    """
    place = lab.place("nodes", node)
    address = "127.0.0.1" if port == METRICS else place["addresses"][0]
    return ask(lab, lab.place("nodes", source or node), address, port, path)


def metrics(lab: Lab, node: str) -> dict[str, float]:
    """Each series with its value."""
    lines = answer(lab, node, "/metrics", METRICS).body.splitlines()
    return {
        name: float(value)
        for line in lines
        if not line.startswith("#")
        for name, _, value in [line.rpartition(" ")]
    }


def health_port(lab: Lab) -> int:
    return int(lab.get("service", "local")["spec"]["healthCheckNodePort"])


def test_each_node_has_one_in_its_own_network(running: Lab) -> None:
    """A DaemonSet's pod, with its node's addresses and no link of its own."""
    pods = running.pods("kube-proxy", "kube-system")
    nodes = {node["name"]: node for node in running.seen["nodes"]}
    assert sorted(pod["node"] for pod in pods) == sorted(nodes)
    assert all(
        pod["ready"]
        and pod["addresses"] == nodes[pod["node"]]["addresses"]
        and pod["host_ifname"] is None
        for pod in pods
    )
    assert {pod["workload"] for pod in pods} == {"DaemonSet/kube-proxy"}
    assert running.get("daemonset", "kube-proxy", "-n", "kube-system")["status"]["numberReady"] == 3


def test_it_comes_back(running: Lab) -> None:
    """Its DaemonSet, its pods, and their ports."""
    before = {pod["sandbox"] for pod in running.pods("kube-proxy", "kube-system")}
    running.run("delete", "daemonset", "kube-proxy", "-n", "kube-system")
    wait_for(
        lambda: (
            len(
                [
                    pod
                    for pod in running.seen["pods"]
                    if pod["host_network"] and pod["ready"] and pod["sandbox"] not in before
                ]
            )
            == 3
        ),
        "new pods",
    )
    assert answer(running, "worker").status == 200


def test_health_is_for_all_and_metrics_are_for_the_node(running: Lab) -> None:
    """As upstream: 10256 on every address and in both families, 10249 on 127.0.0.1 alone."""
    worker, client = running.place("nodes", "worker"), running.place("external", "client")
    for address in worker["addresses"]:
        said = ask(running, client, address, HEALTH, "/healthz")
        assert (said.status, said.json.keys()) == (
            200,
            {"lastUpdated", "currentTime", "nodeEligible"},
        )
        assert said.json["nodeEligible"] is True
    assert answer(running, "worker", "/livez").json.keys() == {"lastUpdated", "currentTime"}
    assert answer(running, "worker", "/nothing").status == 404
    assert answer(running, "worker", "/proxyMode", METRICS).body == "nftables"
    assert answer(running, "worker", "/healthz", METRICS).body == "ok"
    assert (
        ask(running, worker, worker["addresses"][0], METRICS, "/metrics").error
        == "ConnectionRefusedError"
    )


def test_each_sync_is_told_and_counted(running: Lab) -> None:
    """A line in the log, a tick in the histogram, as many changes as there were."""
    before = metrics(running, "worker")
    running.run("scale", "deployment", "web", "--replicas", "4")
    wait_for(
        lambda: any("with 10 endpoints" in line for line in log(running, "worker")),
        "word of ten endpoints",
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
    nowhere = 'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"}'
    assert (after[nowhere], metrics(running, "worker2")[nowhere]) == (1, 0)
    running.run("scale", "deployment", "web", "--replicas", "2")
    wait_for(lambda: len(running.pods("web")) == 2, "two pods again")


def test_a_load_balancer_hears_which_nodes_have_endpoints(running: Lab) -> None:
    """On every node, by any path; how many is said in the body and in the header.

    A packet from outside keeps its source.
    """
    said = {
        node: answer(running, node, "/any/path", health_port(running))
        for node in ("control-plane", "worker", "worker2")
    }
    assert {node: one.status for node, one in said.items()} == {
        "control-plane": 503,
        "worker": 503,
        "worker2": 200,
    }
    service_ = {"namespace": "default", "name": "local"}
    assert said["worker2"].json == {
        "service": service_,
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert said["worker"].json == {
        "service": service_,
        "localEndpoints": 0,
        "serviceProxyHealthy": True,
    }
    assert [
        said[node].headers["x-load-balancing-endpoint-weight"] for node in ("worker", "worker2")
    ] == ["0", "2"]
    client, address = (
        running.place("external", "client"),
        running.service("local")["load_balancer_ips"][0],
    )
    (seen,) = running.ask(client, ("TCP", address, 80))
    assert seen.seen[0] == seen.source[0] == client["addresses"][0]


def test_a_pod_that_is_not_ready_does_not_count(running: Lab) -> None:
    """One that is unready on purpose: 503 as soon as it is the last one."""
    running.run("scale", "deployment", "web", "--replicas", "0")
    wait_for(
        lambda: answer(running, "worker2", "/", health_port(running)).status == 503, "no endpoint"
    )
    assert answer(running, "worker2", "/", health_port(running)).json["localEndpoints"] == 0
    running.run("scale", "deployment", "web", "--replicas", "2")
    wait_for(
        lambda: answer(running, "worker2", "/", health_port(running)).status == 200,
        "endpoints again",
    )


def test_the_port_goes_with_the_service(running: Lab) -> None:
    """And the log says so."""
    port = health_port(running)
    running.run("delete", "service", "local")
    wait_for(
        lambda: answer(running, "worker", "/", port).error == "ConnectionRefusedError",
        "nobody at the port",
    )
    assert f"Closing health check of Service default/local on port {port}" in log(running, "worker")
    running.apply(LOCAL)
    wait_for(lambda: answer(running, "worker", "/", port).status == 503, "somebody at the port")


def test_counts_outlive_the_agent_and_begin_anew_with_the_worker(running: Lab) -> None:
    """What a process remembers is its own. A new one says what is in force."""
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
        "word of what is in force",
    )
    assert metrics(running, "worker")[count] < before
    assert answer(running, "worker").status == 200


def test_without_a_proxy_there_is_none(lab: Lab) -> None:
    """Neither pods nor a DaemonSet nor anybody at the port; after a change of mind there are."""
    lab.up(CLIENT, "--proxy", "none")
    assert [pod for pod in lab.seen["pods"] if pod["name"].startswith("kube-proxy")] == []
    assert lab.get("daemonsets", "-A")["items"] == []
    assert answer(lab, "worker").error == "ConnectionRefusedError"
