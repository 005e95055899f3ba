"""Agents of CNI plugins: a pod on each node, its health and log, and what a stopped one misses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.clusters import pod
from tests.labs.lab import SHORTLY, Lab, wait_for
from tests.labs.pod_networks import manifest
from tests.labs.test_network_faults import reaches
from tests.labs.test_pod_networks import require
from tests.patience import patiently

AGENTS = {
    "flannel": ("kube-flannel", "kube-flannel-ds", "Added VTEP {address} on flannel.1"),
    "calico": ("kube-system", "calico-node", "Added BGP peer {address}"),
    "weave": ("kube-system", "weave-net", "Added VTEP {address} on vxlan-6784"),
    "cilium": ("kube-system", "cilium", "Added route 10.244.2.0/24 via 10.244.1.1 dev cilium_host"),
    "kube-router": ("kube-system", "kube-router", "Added BGP peer {address}"),
}
"""CNI mode → namespace and name of the DaemonSet, and a line of the log of the agent on worker."""
WITHOUT_AGENT = {
    "weave": "dial tcp 127.0.0.1:6784: connect: connection refused",
    "cilium": "Is the agent running?",
}
"""CNI mode whose program calls the agent → end of its message without one."""
BGP = ("calico", "kube-router")


def agents(lab: Lab, cni: str) -> dict[str, Any]:
    """Return the agent's pod of each node."""
    namespace, name, _ = AGENTS[cni]
    return {
        entry["node"]: entry
        for entry in lab.inspected["pods"]
        if (entry["namespace"], entry["workload"]) == (namespace, f"DaemonSet/{name}")
    }


def log(lab: Lab, cni: str, node: str) -> str:
    namespace, *_ = AGENTS[cni]
    return lab.run("logs", "-n", namespace, agents(lab, cni)[node]["name"]).out


def four_nodes(cni: str) -> str:
    """Return the same cluster with a node that is new, and a pod d on it."""
    nodes = "nodes: [{role: control-plane}, {role: worker}, {role: worker}, {role: worker}]\n"
    new = pod("d", spec=", nodeName: worker3").removeprefix("---\n")
    return manifest("ipv4", cni).replace("networking:", nodes + "networking:", 1) + f"---\n{new}"


@contextmanager
def without_agent(lab: Lab, node: str = "worker") -> Iterator[None]:
    """Stop the agent of a node; afterwards require that the lab is as it would be without."""
    assert lab.run("diff", status=None).status == 0
    result = lab.run("break", "cni-agent", "--node", node)
    assert f"the agent of the CNI plugin on {node} is stopped" in result.out
    yield
    lab.run("heal")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the lab with its agent")
    wait_for(lambda: lab.run("ping", "-o", "json", status=None).json["ok"], "the whole matrix")
    wait_for(lambda: lab.problems == [], "healthy agents", patiently(20))


@pytest.mark.parametrize("cni", AGENTS)
def test_each_node_has_an_agent_that_logs_what_it_has_done(lab: Lab, cni: str) -> None:
    """It is a Ready pod in its node's network, of a DaemonSet with upstream's name."""
    require(cni)
    lab.up(manifest("ipv4", cni))
    namespace, name, line = AGENTS[cni]
    pods, nodes = agents(lab, cni), {node["name"]: node for node in lab.inspected["nodes"]}
    assert pods.keys() == nodes.keys()
    for node, entry in pods.items():
        assert entry["ready"]
        assert entry["addresses"] == nodes[node]["addresses"]
        assert nodes[node]["agent"] == "running"
    assert lab.get("daemonset", name, "-n", namespace)["status"]["numberReady"] == len(nodes)
    assert line.format(address=nodes["worker2"]["addresses"][0]) in log(lab, cni, "worker")
    wait_for(lambda: "Ready: " in log(lab, cni, "worker"), "the line about its health")
    described = lab.run("describe", "pod", pods["worker"]["name"], "-n", namespace).out
    assert "the lab checks BGP sessions, VTEPs, keys and routes of the node" in described
    # The nodes are in the matrix themselves.
    assert name not in lab.run("ping").out


@pytest.mark.parametrize("cni", AGENTS)
def test_a_node_without_agent_keeps_its_state_and_misses_a_new_node(lab: Lab, cni: str) -> None:
    """All other nodes know the new one at once; so does the node when its agent is back."""
    require(cni)
    lab.up(manifest("ipv4", cni))
    with without_agent(lab):
        agent = agents(lab, cni)["worker"]
        assert not agent["ready"]
        assert reaches(lab, "a", "c")
        assert reaches(lab, "c", "a")
        result = lab.up(four_nodes(cni), *SHORTLY, status=1)
        assert "no agent of the CNI plugin" in result.err
        assert "Node worker: " in result.err
        assert [node["agent"] for node in lab.inspected["nodes"]].count("stopped") == 1
        for is_new in (False, True):
            if is_new:
                lab.kill("agent")
            assert not reaches(lab, "a", "d")
            assert reaches(lab, "a", "c")
            assert "node/worker\n" in lab.run("diff", status=1).out
        wait_for(lambda: reaches(lab, "c", "d"), "the new node elsewhere")
        matrix = lab.run("ping", status=1)
        assert "has no running agent on worker, which misses every change" in matrix.err
        (new,) = [node for node in lab.inspected["nodes"] if node["name"] == "worker3"]
        if cni in BGP:
            sessions = lab.run("exec", "node:worker", "--", "birdc", "show", "protocols").out
            assert new["addresses"][0].replace(".", "_") not in sessions
    assert reaches(lab, "a", "d")


def test_a_node_without_agent_misses_other_options_of_the_mode(lab: Lab) -> None:
    """It keeps its tunnels, which lead to no other node any more; every command says so."""
    lab.up(manifest("ipv4", "flannel"))

    def has_link(node: str, name: str) -> bool:
        links = json.loads(lab.inside(lab.place("nodes", node), "ip", "-j", "link"))
        return name in [link["ifname"] for link in links]

    with without_agent(lab):
        former = "has the former options of the CNI mode: vni 1"
        changed = lab.up(manifest("ipv4", "{type: flannel, vni: 7}"), *SHORTLY, status=1)
        assert former in changed.err
        assert has_link("worker", "flannel.1")
        assert has_link("worker2", "flannel.7")
        assert not reaches(lab, "a", "c")
        assert reaches(lab, "a", "b")
        matrix = " ".join(lab.run("ping", status=1).err.split())
        assert "misses every change of the cluster and of options" in matrix
        assert former in " ".join(lab.run("check", status=1).out.split())
    assert has_link("worker", "flannel.7")
    assert not has_link("worker", "flannel.1")


def test_bird_misses_a_new_peer_while_the_agent_is_stopped(lab: Lab) -> None:
    """BIRD itself runs on; its configuration changes when the agent is back."""
    require("calico")
    lab.up(manifest("ipv4", "calico"))
    peer = (
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: tor}\n"
        "spec: {peerIP: 172.18.0.99, asNumber: 64999}\n"
    )

    def has_session(node: str) -> bool:
        birdc = ("birdc", "show", "protocols", "all")
        return "172.18.0.99" in lab.run("exec", f"node:{node}", "--", *birdc).out

    lab.run("break", "cni-agent", "--node", "worker")
    lab.apply(peer, "--no-wait", status=None)
    wait_for(lambda: has_session("worker2"), "the session elsewhere")
    assert not has_session("worker")
    assert reaches(lab, "a", "c")
    assert "bird.conf" in lab.run("diff", status=1).out
    lab.run("delete", "fault", "1")  # heal would wait for the agents, whose peer does not exist
    wait_for(lambda: has_session("worker"), "the session")


@pytest.mark.parametrize("cni", ["flannel", "kube-router"])
def test_a_new_pod_works_where_the_cni_program_needs_no_agent(lab: Lab, cni: str) -> None:
    """Its addresses are in the range of the node, to which other nodes have a route."""
    require(cni)
    lab.up(manifest("ipv4", cni))
    with without_agent(lab):
        lab.apply(pod("late", spec=", nodeName: worker"), status=1)
        assert lab.pod("late")["ready"]
        assert reaches(lab, "c", "late")


def test_a_new_pod_has_no_route_without_felix(lab: Lab) -> None:
    """The CNI program gives it an address; its node has no route to it, so it is not Ready."""
    lab.up(manifest("ipv4", "calico"))
    with without_agent(lab):
        result = lab.apply(pod("late", spec=", nodeName: worker"), status=1)
        assert "default/late: Unhealthy" in result.err
        late = lab.pod("late")
        (address,) = late["addresses"]
        routes = json.loads(lab.inside(lab.place("nodes", "worker"), "ip", "-j", "route"))
        destinations = [route["dst"] for route in routes]
        assert lab.pod("a")["addresses"][0] in destinations
        assert address not in destinations
        assert not reaches(lab, "c", "late")
        assert f"+ route {address}/32" in lab.run("diff", status=1).out
        lab.run("heal")
        wait_for(lambda: reaches(lab, "c", "late"), "the route")
        wait_for(lambda: lab.pod("late")["ready"], "a ping", patiently(20))


@pytest.mark.parametrize("cni", WITHOUT_AGENT)
def test_a_new_pod_gets_no_sandbox_where_the_cni_program_calls_the_agent(
    lab: Lab, cni: str
) -> None:
    """The pod stays in ContainerCreating, with the plugin's message, until the agent is back."""
    require(cni)
    lab.up(manifest("ipv4", cni))
    with without_agent(lab):
        result = lab.apply(pod("late", spec=", nodeName: worker"), status=1)
        assert WITHOUT_AGENT[cni] in result.err
        described = lab.run("describe", "pod", "late").out
        assert "FailedCreatePodSandBox" in described
        assert lab.pod("late")["addresses"] == []
        lab.apply(pod("elsewhere", spec=", nodeName: worker2"), status=1)
        assert lab.pod("elsewhere")["ready"]
    wait_for(lambda: lab.pod("late")["ready"], "its network")
    assert reaches(lab, "late", "c")


@pytest.mark.parametrize("cni", BGP)
def test_the_agent_is_not_ready_without_its_bgp_sessions(lab: Lab, cni: str) -> None:
    """Its pod says which sessions are down; the nodes stay Ready."""
    require(cni)
    lab.up(manifest("ipv4", cni))
    assert all(entry["ready"] for entry in agents(lab, cni).values())
    lab.run("break", "bgp", "--node", "worker")
    worker2 = lab.place("nodes", "worker2")["addresses"][0]

    def event() -> bool:
        namespace, name = AGENTS[cni][0], agents(lab, cni)["worker"]["name"]
        described = lab.run("describe", "pod", name, "-n", namespace).out
        return any(
            "Readiness probe failed: " in line and "BGP not established with" in line
            for line in described.splitlines()
            if worker2 in line
        )

    wait_for(lambda: not agents(lab, cni)["worker"]["ready"], "an unready agent", patiently(30))
    wait_for(lambda: "BGP not established with" in log(lab, cni, "worker"), "its log")
    if cni == "calico":  # the kubelet writes it 20 s after the start of any agent
        wait_for(event, "its event", patiently(40))
    assert all(node["ready"] for node in lab.inspected["nodes"])
    lab.run("heal")
    wait_for(
        lambda: all(entry["ready"] for entry in agents(lab, cni).values()),
        "all sessions",
        patiently(30),
    )


def test_the_agent_is_not_ready_without_a_route(lab: Lab) -> None:
    """The health of flannel's agent follows the routes of the kernel."""
    lab.up(manifest("ipv4", "flannel"))
    lab.run("break", "route", "--node", "worker", "--to", "worker2")
    wait_for(lambda: not agents(lab, "flannel")["worker"]["ready"], "an unready agent")
    assert agents(lab, "flannel")["worker2"]["ready"]
    wait_for(
        lambda: "flanneld is not ready: no route to 10.244.2.0/24" in log(lab, "flannel", "worker"),
        "its log",
    )
    lab.run("heal")
    wait_for(lambda: agents(lab, "flannel")["worker"]["ready"], "the route")


def test_without_the_daemon_set_a_new_node_has_no_network(lab: Lab) -> None:
    """Old nodes keep their state; a new one is NotReady until an agent has run there."""
    lab.up(manifest("ipv4", "flannel"))
    saved = lab.run("get", "daemonset", "kube-flannel-ds", "-n", "kube-flannel", "-o", "yaml").out
    lab.run("delete", "daemonset", "kube-flannel-ds", "-n", "kube-flannel")
    wait_for(lambda: not agents(lab, "flannel"), "the end of the pods")
    assert reaches(lab, "a", "c")
    lab.up(four_nodes("flannel"), status=1)
    assert reaches(lab, "a", "c")
    (new,) = [node for node in lab.inspected["nodes"] if node["name"] == "worker3"]
    assert not new["ready"]
    assert "10.244.3.1" not in lab.inside(new, "ip", "address")
    described = lab.run("describe", "node", "worker3").out
    assert "cni plugin not initialized" in described
    assert lab.pod("d")["addresses"] == []
    lab.apply(saved)
    wait_for(lambda: lab.pod("d")["ready"], "the network of the new node")
    assert len(agents(lab, "flannel")) == 4
    assert reaches(lab, "a", "d")
    assert lab.run("diff", status=None).status == 0


def test_a_node_that_the_selector_excludes_has_no_agent(lab: Lab) -> None:
    """A node selector has the same effect as a fault, for the nodes that it does not match."""
    lab.up(manifest("ipv4", "flannel"))
    path = ("get", "daemonset", "kube-flannel-ds", "-n", "kube-flannel", "-o", "json")
    document = json.loads(lab.run(*path).out)
    document["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "worker2"}
    lab.apply(json.dumps(document), status=1)
    wait_for(lambda: agents(lab, "flannel").keys() == {"worker2"}, "one agent")
    states = {node["name"]: node["agent"] for node in lab.inspected["nodes"]}
    assert states == {"control-plane": "stopped", "worker": "stopped", "worker2": "running"}
    lab.run("ping", "a", "c", status=1)
    assert reaches(lab, "a", "c")


def test_the_fault_needs_a_plugin_with_agents(lab: Lab) -> None:
    lab.up(manifest("ipv4", "bridge"))
    result = lab.run("break", "cni-agent", "--node", "worker", status=2)
    assert "this lab has no agents: the CNI mode bridge" in result.err
