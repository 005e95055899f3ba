"""A kube-proxy that is broken on purpose, and healed again.

The tests cover connectivity, the reports of the fault, and that nothing of it remains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clusters import deployment, pod, service
from tests.labs.conftest import new_lab
from tests.labs.http_client import HttpReply, http_get
from tests.labs.lab import Lab, run, wait_for
from tests.labs.lab_view import PROXY_MODES

HEALTH = 10256
NOBODY = {"silence", "unreachable"}


def client(name: str, node: str) -> str:
    return pod(name, spec=f", nodeName: {node}")


LOCAL = service("local", 80, "http", type="LoadBalancer", externalTrafficPolicy="Local").replace(
    "app: local", "app: both"
)
SHOP = (
    client("near", "worker")
    + client("far", "worker2")
    + deployment(replicas=2, nodeName="worker2")
    + service()
)
BOTH = client("one", "worker").replace("name: one", "name: one, labels: {app: both}") + client(
    "two", "worker2"
).replace("name: two", "name: two, labels: {app: both}")


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield a lab with a client on each worker, and `web` on worker2.

    A load balancer with externalTrafficPolicy Local has a pod on each worker.
    """
    for lab in new_lab():
        lab.up(
            SHOP
            + BOTH.replace(
                "args: [netexec]", "args: [netexec], ports: [{name: http, containerPort: 8080}]"
            )
            + LOCAL
        )
        yield lab


@pytest.fixture(autouse=True)
def healed(running: Lab) -> Iterator[None]:
    """Heal all faults after each test; then the lab is like a new one, without stored faults."""
    yield
    running.run("heal")
    assert running.get("faults")["items"] == []
    assert running.problems == []
    assert running.run("heal").out == "nothing is broken\n"


def reaches(lab: Lab, source: str, name: str = "web") -> str:
    """Return whether a Service answers a pod, or the kind of error."""
    (answer,) = lab.ask(lab.pod(source), ("TCP", lab.service(name)["cluster_ips"][0], 80))
    return answer.error or "answered"


def health(lab: Lab, node: str, port: int = HEALTH) -> HttpReply:
    """Return the health of a node's kube-proxy as another node sees it."""
    return http_get(
        lab,
        lab.place("nodes", "control-plane"),
        lab.place("nodes", node)["addresses"][0],
        port,
        "/healthz",
    )


def kube_proxy(lab: Lab, node: str) -> Any:
    return next(pod for pod in lab.pods("kube-proxy", "kube-system") if pod["node"] == node)


def test_a_stopped_kube_proxy_misses_all_changes(running: Lab) -> None:
    """The node keeps its rules, which lead to deleted pods.

    New Services do not exist there. Nothing else changes, also not when the agent is killed. Once
    healed, the node catches up at once.
    """
    result = running.run("break", "kube-proxy", "--node", "worker", "--how", "stopped")
    assert (
        result.out == "fault 1: kube-proxy on worker is stopped: "
        "the node keeps its rules, and misses every change\n"
    )
    assert result.err.startswith("next: kubenetlab explain kube-proxy")
    assert (reaches(running, "near"), reaches(running, "far")) == ("answered", "answered")
    assert (health(running, "worker").error, health(running, "worker2").status) == (
        "ConnectionRefusedError",
        200,
    )
    assert not kube_proxy(running, "worker")["ready"]
    run("rollout", "restart", "deployment", "web", "--lab", running.name)
    run("rollout", "status", "deployment", "web", "--lab", running.name)
    running.apply(service("late").replace("app: late", "app: web"))
    wait_for(lambda: reaches(running, "far", "late") == "answered", "a new Service elsewhere")
    assert reaches(running, "far") == "answered"
    assert {reaches(running, "near"), reaches(running, "near", "late")} <= NOBODY
    running.kill("agent")
    assert {reaches(running, "near"), reaches(running, "near", "late")} <= NOBODY
    drift = running.run("diff", status=1)
    assert "service-" in drift.out
    assert "broken on purpose: kube-proxy on worker is stopped" in drift.err
    assert [line for line in drift.out.splitlines() if not line.startswith(" ")][:-2] == [
        "fabric/router",  # the load balancer has removed the node
        "node/worker",
    ]
    running.run("heal", "1")
    assert (reaches(running, "near"), reaches(running, "near", "late")) == ("answered", "answered")
    assert health(running, "worker").status == 200
    running.run("delete", "service", "late")


@pytest.mark.skipif(
    "iptables" not in PROXY_MODES, reason="this machine has no iptables (apt-get install iptables)"
)
def test_a_stopped_kube_proxy_misses_a_change_of_the_mode(running: Lab) -> None:
    """`diff` shows surplus rules of the former mode and missing rules of the new mode."""
    first = "nft table ip kube-proxy"
    second = "iptables chain nat KUBE-SERVICES"
    for mode, surplus, missing in (("iptables", first, second), ("nftables", second, first)):
        running.run("break", "kube-proxy", "--node", "worker", "--how", "stopped")
        running.run("up", "--proxy", mode)
        output = running.run("diff", status=1).out
        assert f"- {surplus}" in output
        assert f"+ {missing}" in output
        assert reaches(running, "near") == reaches(running, "far") == "answered"
        running.run("heal")
        assert running.problems == []


def test_apply_does_not_wait_for_pods_that_are_unready_on_purpose(running: Lab) -> None:
    """The output names the broken pods; they are no failure."""
    running.run("break", "kube-proxy", "--node", "worker")
    result = running.apply(client("later", "worker"))
    assert "unready on purpose: kube-system/kube-proxy-" in result.err
    running.run("delete", "pod", "later")


def test_a_stale_kube_proxy_becomes_unhealthy_after_two_periods(running: Lab) -> None:
    """Its pod runs and is Ready.

    After two periods, load balancers see that it is unhealthy and use another node.
    """
    external_client, address = (
        running.place("external", "client"),
        running.service("local")["load_balancer_ips"][0],
    )
    nodes = {pod: running.pod(pod)["node"] for pod in ("one", "two")}
    (before,) = running.ask(external_client, ("TCP", address, 80))
    node, other_pod = nodes[before.server], next(pod for pod in nodes if pod != before.server)
    running.run("break", "kube-proxy", "--node", node, "--how", "stale")
    name, port = (
        kube_proxy(running, node)["name"],
        running.get("service", "local")["spec"]["healthCheckNodePort"],
    )
    assert health(running, node).status == 200
    assert (
        "Watch of Services and EndpointSlices is lost"
        in running.run("logs", f"kube-system/{name}").out
    )
    wait_for(lambda: health(running, node).status == 503, "an unhealthy answer")
    assert health(running, node, port).json["serviceProxyHealthy"] is False
    assert "No update received for 10 s" in running.run("logs", f"kube-system/{name}").out
    assert kube_proxy(running, node)["ready"]
    wait_for(
        lambda: running.ask(external_client, ("TCP", address, 80))[0].server == other_pod,
        "an answer from the other node",
    )
    running.run("heal")
    assert health(running, node).status == 200
    assert (
        "Watching Services and EndpointSlices again"
        in running.run("logs", f"kube-system/{name}").out
    )
    wait_for(
        lambda: running.ask(external_client, ("TCP", address, 80))[0].server == before.server,
        "an answer from the first node",
    )


def test_a_misconfigured_kube_proxy_breaks_its_own_node(running: Lab) -> None:
    """It claims to be healthy; `ping` and `diff` show the errors."""
    running.run("break", "kube-proxy", "--node", "worker", "--how", "misconfigured")
    assert reaches(running, "near") != "answered"
    assert reaches(running, "far") == "answered"
    assert health(running, "worker").status == 200
    assert running.run("ping", "near", "svc:web", "--tcp", "80", status=1).out
    matrix = running.run("ping", "-o", "json", status=1).json
    on_node = {
        f"{pod['namespace']}/{pod['name']}"
        for pod in running.inspected["pods"]
        if pod["node"] == "worker"
    } | {"node:worker"}
    failing_sources = {cell["from"] for cell in matrix["cells"] if not cell["ok"]}
    assert failing_sources
    assert failing_sources <= on_node | {"ext:client"}
    result = running.run("diff", status=1)
    address = running.pod("web")["addresses"][0]
    assert f"__{address}/8080" in result.out
    assert "- nft chain ip kube-proxy endpoint-" in result.out
    assert f"__{address.replace('10.244.', '10.245.')}/8080" in result.out


def test_faults_survive_killed_processes(running: Lab) -> None:
    """Faults are in the store, and killed processes do not remove them."""
    running.run("break", "kube-proxy", "--node", "worker", "--how", "misconfigured")
    running.run("break", "kube-proxy", "--node", "worker2", "--how", "stopped")
    for role in ("agent", "worker-1", "worker-2", "node-agent-0"):
        running.kill(role)
    assert [fault["metadata"]["name"] for fault in running.get("faults")["items"]] == ["1", "2"]
    wait_for(lambda: reaches(running, "near") not in ("answered", ""), "no answer")
    wait_for(lambda: health(running, "worker").status == 200, "an answer of the process")
    assert health(running, "worker2").error == "ConnectionRefusedError"
    assert (
        running.run("heal", "2").out
        == "fault 2 is healed; it was: kube-proxy on worker2 is stopped: "
        "the node keeps its rules, and misses every change\n"
    )
    assert [fault["metadata"]["name"] for fault in running.get("faults")["items"]] == ["1"]


def test_invalid_arguments_of_break_are_explained(running: Lab) -> None:
    """The exit status is 2, and the message names valid values."""
    assert (
        "did you mean worker?"
        in running.run("break", "kube-proxy", "--node", "workr", status=2).err
    )
    assert (
        "did you mean kube-proxy?"
        in running.run("break", "kubeproxy", "--node", "worker", status=2).err
    )
    assert "expected OPTION=VALUE" in running.run("break", "kube-proxy", "node", status=2).err
    running.run("break", "kube-proxy", "node=worker", "how=stop")
    assert (
        "already broken on worker, by fault 1"
        in running.run("break", "kube-proxy", "--node", "worker", status=2).err
    )
    assert "node=worker,how=stopped" in running.run("break", "--list").out
    assert running.run("heal", "7").out == "there is no fault 7; see kubenetlab get faults\n"
    assert [item["metadata"]["name"] for item in running.get("faults")["items"]] == ["1"]
