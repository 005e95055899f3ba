"""A kube-proxy that is broken on purpose, and healed: who reaches whom, what tells it, and that
nothing stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clusters import deployment, service
from tests.labs.asking import Said, ask
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, run, wait_for
from tests.labs.world import PROXIES

HEALTH = 10256
NOBODY = {"silence", "unreachable"}


def client(name: str, node: str) -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: {node}, containers: [{{name: c, image: agnhost, args: [netexec]}}]}}\n---\n"


LOCAL = service("local", 80, "http", type="LoadBalancer", externalTrafficPolicy="Local").replace(
    "app: local", "app: both"
)
SHOP = (
    client("here", "worker")
    + client("there", "worker2")
    + deployment(replicas=2, nodeName="worker2")
    + service()
)
BOTH = client("one", "worker").replace("name: one", "name: one, labels: {app: both}") + client(
    "two", "worker2"
).replace("name: two", "name: two, labels: {app: both}")


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """A client on each worker, `web` on worker2, and a pod on each behind a load balancer that
    keeps sources.
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
    """After each test the lab is as a new one: every pod, every packet, every rule; and nothing is
    written down.
    """
    yield
    running.run("heal")
    assert running.get("faults")["items"] == []
    assert running.faults == []
    assert running.run("heal").out == "nothing is broken\n"


def reaches(lab: Lab, source: str, name: str = "web") -> str:
    """What a pod hears from a Service: a name, or the kind of error."""
    (answer,) = lab.ask(lab.pod(source), ("TCP", lab.service(name)["cluster_ips"][0], 80))
    return answer.error or "answered"


def health(lab: Lab, node: str, port: int = HEALTH) -> Said:
    """Asked from another node."""
    return ask(
        lab,
        lab.place("nodes", "control-plane"),
        lab.place("nodes", node)["addresses"][0],
        port,
        "/healthz",
    )


def kube_proxy(lab: Lab, node: str) -> Any:
    return next(pod for pod in lab.pods("kube-proxy", "kube-system") if pod["node"] == node)


def test_a_stopped_one_misses_what_changes(running: Lab) -> None:
    """Its node goes on with its rules, which lead to pods that go; new Services do not exist there.

    Nothing else is touched, also not by the death of the agent. Healed, the node has it all at
    once.
    """
    said = running.run("break", "kube-proxy", "--node", "worker", "--how", "stopped")
    assert (
        said.out
        == "fault 1: kube-proxy on worker is stopped: the node keeps its rules, and misses every change\n"
    )
    assert said.err.startswith("next: kubenetlab explain kube-proxy")
    assert (reaches(running, "here"), reaches(running, "there")) == ("answered", "answered")
    assert (health(running, "worker").error, health(running, "worker2").status) == (
        "ConnectionRefusedError",
        200,
    )
    assert not kube_proxy(running, "worker")["ready"]
    run("rollout", "restart", "deployment", "web", "--lab", running.name)
    run("rollout", "status", "deployment", "web", "--lab", running.name)
    running.apply(service("late").replace("app: late", "app: web"))
    wait_for(lambda: reaches(running, "there", "late") == "answered", "a new Service elsewhere")
    assert reaches(running, "there") == "answered"
    assert {reaches(running, "here"), reaches(running, "here", "late")} <= NOBODY
    running.kill("agent")
    assert {reaches(running, "here"), reaches(running, "here", "late")} <= NOBODY
    told = running.run("diff", status=1)
    assert "service-" in told.out
    assert "broken on purpose: kube-proxy on worker is stopped" in told.err
    assert [line for line in told.out.splitlines() if not line.startswith(" ")][:-2] == [
        "fabric/router",  # whose load balancer has left the node out
        "node/worker",
    ]
    running.run("heal", "1")
    assert (reaches(running, "here"), reaches(running, "here", "late")) == ("answered", "answered")
    assert health(running, "worker").status == 200
    running.run("delete", "service", "late")


@pytest.mark.skipif(
    "iptables" not in PROXIES, reason="this machine has no iptables (apt-get install iptables)"
)
def test_a_stopped_one_misses_another_mode(running: Lab) -> None:
    """What its node has too much is named in the words of the former mode, what lacks in those of
    the new one; there and back.
    """
    first = "nft table ip kube-proxy"
    second = "iptables chain nat KUBE-SERVICES"
    for mode, gone, come in (("iptables", first, second), ("nftables", second, first)):
        running.run("break", "kube-proxy", "--node", "worker", "--how", "stopped")
        running.run("up", "--proxy", mode)
        told = running.run("diff", status=1).out
        assert f"- {gone}" in told
        assert f"+ {come}" in told
        assert reaches(running, "here") == reaches(running, "there") == "answered"
        running.run("heal")
        assert running.faults == []


def test_pods_of_other_nodes_are_not_waited_for(running: Lab) -> None:
    """What is applied to a broken lab is settled when everything is that can be; what is broken is
    named, and no failure.
    """
    running.run("break", "kube-proxy", "--node", "worker")
    said = running.apply(client("later", "worker"))
    assert "unready on purpose: kube-system/kube-proxy-" in said.err
    running.run("delete", "pod", "later")


def test_a_stale_one_tells_so_after_a_while(running: Lab) -> None:
    """It runs and is Ready; two periods later load balancers hear that it is not well, and lead
    their packets to another node.
    """
    outside, address = (
        running.place("external", "client"),
        running.service("local")["load_balancer_ips"][0],
    )
    nodes = {pod: running.pod(pod)["node"] for pod in ("one", "two")}
    (before,) = running.ask(outside, ("TCP", address, 80))
    node, other = nodes[before.who], next(pod for pod in nodes if pod != before.who)
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
        lambda: running.ask(outside, ("TCP", address, 80))[0].who == other,
        "an answer from the other node",
    )
    running.run("heal")
    assert health(running, node).status == 200
    assert (
        "Watching Services and EndpointSlices again"
        in running.run("logs", f"kube-system/{name}").out
    )
    wait_for(
        lambda: running.ask(outside, ("TCP", address, 80))[0].who == before.who,
        "an answer from the first node",
    )


def test_a_misconfigured_one_leads_nowhere(running: Lab) -> None:
    """From its node alone; it says that it is well, and `ping` and `diff` say what is wrong."""
    running.run("break", "kube-proxy", "--node", "worker", "--how", "misconfigured")
    assert reaches(running, "here") != "answered"
    assert reaches(running, "there") == "answered"
    assert health(running, "worker").status == 200
    assert running.run("ping", "here", "svc:web", "--tcp", "80", status=1).out
    matrix = running.run("ping", "-o", "json", status=1).json
    on_node = {
        f"{pod['namespace']}/{pod['name']}"
        for pod in running.seen["pods"]
        if pod["node"] == "worker"
    } | {"node:worker"}
    wrong = {cell["from"] for cell in matrix["cells"] if not cell["ok"]}
    assert wrong
    assert wrong <= on_node | {"ext:client"}
    told = running.run("diff", status=1)
    address = running.pod("web")["addresses"][0]
    assert f"__{address}/8080" in told.out
    assert "- nft chain ip kube-proxy endpoint-" in told.out
    assert f"__{address.replace('10.244.', '10.245.')}/8080" in told.out


def test_a_broken_lab_survives_its_processes(running: Lab) -> None:
    """Faults are in the store: neither agent nor worker nor node agent takes them along."""
    running.run("break", "kube-proxy", "--node", "worker", "--how", "misconfigured")
    running.run("break", "kube-proxy", "--node", "worker2", "--how", "stopped")
    for role in ("agent", "worker-1", "worker-2", "node-agent-0"):
        running.kill(role)
    assert [fault["metadata"]["name"] for fault in running.get("faults")["items"]] == ["1", "2"]
    wait_for(lambda: reaches(running, "here") not in ("answered", ""), "no answer")
    wait_for(lambda: health(running, "worker").status == 200, "an answer of the process")
    assert health(running, "worker2").error == "ConnectionRefusedError"
    assert (
        running.run("heal", "2").out
        == "fault 2 is healed; it was: kube-proxy on worker2 is stopped: the node keeps its rules, and misses every change\n"
    )
    assert [fault["metadata"]["name"] for fault in running.get("faults")["items"]] == ["1"]


def test_what_is_said_wrongly_is_told(running: Lab) -> None:
    """With exit status 2, and what there is."""
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
