"""The CNI mode conflist: real plugins attach the pods of a lab."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.plugin_lists import (
    BRIDGE,
    ERROR,
    HOST_LOCAL,
    PTP,
    SERVICE,
    THREE,
    cluster,
    configuration,
    kept,
    leases,
    needs_plugins,
    plugin,
    pods,
)
from tests.labs.users import User, UsersLab


@needs_plugins
@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
def test_pods_have_the_addresses_of_the_plugins(lab: Lab, family: str) -> None:
    """Pods and endpoints have the addresses that host-local has assigned, in every family."""
    lab.up(cluster("conflist", family) + THREE + SERVICE)
    assert lab.problems == []
    everywhere = [pod for pod in lab.inspected["pods"] if not pod["host_network"]]
    assert leases(lab) == sorted(address for pod in everywhere for address in pod["addresses"])
    endpoints = lab.service("web")["endpoints"]
    primary = {lab.pod(name)["addresses"][0] for name in "abc"}
    assert primary <= {endpoint["address"] for endpoint in endpoints}


@needs_plugins
def test_another_plugin_and_a_chain(lab: Lab) -> None:
    """The pod has a link of ptp and a sysctl of tuning; `diff` reports neither as drift."""
    lab.up(cluster(PTP) + THREE)
    assert lab.problems == []
    pod = lab.pod("a")
    assert lab.inside(pod, "cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter") == "2\n"
    (address,) = pod["addresses"]
    routes = json.loads(lab.inside(lab.place("nodes", "worker"), "ip", "-j", "route"))
    (route,) = [route for route in routes if route["dst"] == address]
    assert route["dev"].startswith("veth")


@needs_plugins
def test_host_ports_are_the_plugins(lab: Lab) -> None:
    """The plugin portmap makes the rules; the lab makes none."""
    ports = [{"containerPort": 8080, "hostPort": 8081}]
    lab.up(cluster("conflist") + pods(("a", "worker"), ("b", "worker2"), ports=ports))
    target = ("TCP", lab.place("nodes", "worker")["addresses"][0], 8081)
    assert [answer.server for answer in lab.ask(lab.place("external", "outside"), target)]
    rules = lab.inside(lab.place("nodes", "worker"), "iptables-save", "-t", "nat")
    assert "CNI-HOSTPORT-DNAT" in rules
    tables = lab.inside(lab.place("nodes", "worker"), "nft", "list", "tables")
    assert "hostport" not in tables.lower().replace("cni-hostport", "")


@needs_plugins
def test_inspect_shows_what_plugins_made(lab: Lab) -> None:
    """Links with their peers, addresses and routes; none of it in a lab without plugins."""
    lab.up(cluster("conflist") + THREE)
    pod = lab.pod("a")
    (address,), link = pod["addresses"], pod["host_ifname"]
    shown = lab.run("inspect", "a").out.partition("made by other programs:\n")[2].splitlines()
    assert shown[0].startswith("  veth eth0 mac ")
    assert shown[0].endswith(f" mtu 1500 ↔ {link} in node/worker")
    assert shown[1:3] == [
        f"  address {address}/24 dev eth0",
        "  route default via 10.244.1.1 dev eth0",
    ]
    foreign = json.loads(lab.run("inspect", "node:worker", "-o", "json").out)["foreign"]
    assert any(line.startswith("bridge cni0 mac ") for line in foreign)
    assert any(line.startswith(f"veth {link} ") and " port of cni0" in line for line in foreign)
    assert "address 10.244.1.1/24 dev cni0" in foreign
    first, *_ = lab.up(cluster("bridge") + THREE).out.splitlines()
    assert first.startswith("cni conflist → bridge: 5 pods get new sandboxes, nodes restart: ")
    wait_for(lambda: lab.problems == [], "the pods of bridge", within_s=60)
    for name in ("a", "node:worker"):
        assert json.loads(lab.run("inspect", name, "-o", "json").out)["foreign"] == []


@needs_plugins
def test_a_pod_that_goes_releases_its_address(lab: Lab) -> None:
    """DEL frees what ADD took, before the sandbox is removed."""
    lab.up(cluster("conflist") + THREE)
    before = leases(lab)
    (address,) = lab.pod("a")["addresses"]
    assert address in before
    lab.run("delete", "pod", "a")
    wait_for(lambda: leases(lab) == [lease for lease in before if lease != address], "DEL")
    wait_for(lambda: len(kept(lab)) == len(before) - 1, "the result to be dropped")
    wait_for(lambda: not list(Path("/run/netns").glob(f"{lab.name}_pod_default_a*")), "the sandbox")
    assert lab.run("diff").status == 0


@needs_plugins
def test_a_lost_sandbox_is_attached_again(lab: Lab) -> None:
    """GC releases the address of the lost sandbox, and the new sandbox gets another one."""
    lab.up(cluster("conflist") + THREE)
    (before,) = lab.pod("a")["addresses"]
    (victim,) = lab.pids(f"{lab.name}/pod/default/a/")
    lab.inside(lab.pod("b"), "kill", "-9", str(victim))
    wait_for(
        lambda: lab.pod("a")["ready"] and lab.pod("a")["addresses"] not in ([], [before]),
        "a new address",
    )
    wait_for(lambda: before not in leases(lab), "the former address to be released")
    wait_for(lambda: lab.problems == [], "the lab to be whole")


@needs_plugins
@pytest.mark.parametrize("role", ["agent", "node-agent"])
def test_killed_processes_lose_no_attachment(lab: Lab, role: str) -> None:
    """A new agent attaches no pod twice and frees nothing that is in use."""
    lab.up(cluster("conflist") + THREE)
    before = {pod["name"]: pod["addresses"] for pod in lab.inspected["pods"]}
    results = kept(lab)
    for _ in range(2):
        lab.kill(role)
    lab.apply(pods(("d", "worker")))
    wait_for(lambda: lab.pod("d")["ready"], "a pod made afterwards")
    assert {name: lab.pod(name)["addresses"] for name in "abc"} == {
        name: before[name] for name in "abc"
    }
    assert set(results) < set(kept(lab))
    assert lab.problems == []


def test_up_names_programs_and_directories(lab: Lab, tmp_path: Path) -> None:
    """A list may come from others: it cannot hide which programs run."""
    mode = plugin(tmp_path, ERROR)
    result = lab.run("up", "-f", "-", "--timeout", "2", stdin=cluster(mode) + THREE, status=1)
    directories = ", ".join(mode["binDirs"])
    assert f"CNI plugins own attach the pods: programs of {directories}\n" in result.out


@needs_plugins
def test_a_file_is_read_from_the_command_line(lab: Lab, tmp_path: Path) -> None:
    """The lab keeps its content: a new agent needs no file."""
    path = tmp_path / "10-net.conflist"
    path.write_text(json.dumps(PTP["conflist"]))
    lab.up(THREE, "--cni", f"conflist,file={path}", "--nodes", "3")
    path.unlink()
    lab.kill("agent")
    lab.apply(pods(("d", "worker")))
    wait_for(lambda: lab.pod("d")["ready"], "a pod made afterwards")
    assert lab.problems == []
    missing = lab.run("up", "--cni", f"conflist,file={path}", status=2)
    assert f"--cni conflist,file={path}: " in missing.err
    assert "No such file or directory" in missing.err


@needs_plugins
def test_without_root(nobody: User) -> None:
    """Plugins run as root of the lab's user namespace."""
    from tests.conftest import LAB_PREFIX

    lab = UsersLab(f"{LAB_PREFIX}c", nobody)
    try:
        lab.run("up", "-f", "-", stdin=cluster("conflist") + THREE + SERVICE)
        assert lab.problems == []
        lab.run("delete", "pod", "a")
        lab.run("apply", "-f", "-", stdin=pods(("d", "worker")))
        wait_for(lambda: lab.pod("d")["ready"], "a pod made afterwards")
        assert lab.problems == []
    finally:
        lab.down()
    assert not lab.directory.exists()


@needs_plugins
def test_plugins_are_replaced_in_a_running_lab(lab: Lab) -> None:
    """After a change of the list or the mode, nothing of the former plugins is left on a node."""

    def node_links() -> set[str]:
        node = lab.place("nodes", "worker")
        return {link["ifname"] for link in json.loads(lab.inside(node, "ip", "-j", "link"))}

    ipam = HOST_LOCAL | {"routes": [{"dst": "0.0.0.0/0"}]}
    own = configuration(BRIDGE | {"bridge": "own0", "ipam": ipam})
    lab.up(cluster("bridge") + THREE)
    for mode, link, former in (
        ("conflist", "cni0", "cbr0"),
        (own, "own0", "cni0"),
        ("flannel", "flannel.1", "own0"),
    ):
        lab.up(cluster(mode) + THREE)
        wait_for(lambda: lab.problems == [], f"the pods of {mode}", within_s=60)
        assert link in node_links()
        assert former not in node_links()
        assert "FailedCreatePodSandBox" not in lab.run("get", "events", "-A").out
        (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.pod("c")["addresses"][0], 8080))
        assert answer.server


@needs_plugins
def test_a_lost_node_is_built_again(lab: Lab) -> None:
    """Its pods are attached again; no address of the former ones stays in use."""
    lab.up(cluster("conflist") + THREE)
    (victim,) = lab.pids(f"{lab.name}/node/worker")[:1]
    lab.inside(lab.place("nodes", "worker2"), "kill", "-9", str(victim))
    wait_for(
        lambda: (
            lab.place("nodes", "worker")["pid"] not in (None, victim)
            and all(pod["ready"] for pod in lab.inspected["pods"])
        ),
        "the node and its pods",
    )
    everywhere = [pod for pod in lab.inspected["pods"] if not pod["host_network"]]
    expected = sorted(address for pod in everywhere for address in pod["addresses"])
    wait_for(lambda: leases(lab) == expected, "the former addresses to be released")
    wait_for(lambda: lab.problems == [], "the lab to be whole")


@needs_plugins
def test_the_nodes_files_are_seen_inside(lab: Lab) -> None:
    """The list as on a real node, with its own range, and what the plugins keep."""
    lab.up(cluster("conflist") + THREE)
    show = ("exec", "node:worker", "--")
    text = lab.run(*show, "cat", "/etc/cni/net.d/10-containerd-net.conflist").out
    assert json.loads(text)["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    (address,) = lab.pod("a")["addresses"]
    assert address in lab.run(*show, "ls", "/var/lib/cni/networks/containerd-net").out
    assert not Path("/var/lib/cni").exists() or address not in os.listdir("/var/lib/cni")


@needs_plugins
def test_a_node_is_removed_with_its_pods(lab: Lab) -> None:
    """The lab does not call DEL: all state of the plugins ends with the node."""
    lab.up(cluster("conflist") + THREE)
    lab.run("up", "--nodes", "2")
    wait_for(lambda: len(lab.inspected["nodes"]) == 2, "the node to go")
    wait_for(lambda: lab.problems == [], "the lab to be whole")


def test_a_script_cannot_attach_pods(lab: Lab) -> None:
    """`plan -o sh` would make a lab whose pods have no network; `plan` shows the sandboxes."""
    refused = lab.run("plan", "-o", "sh", "-f", "-", stdin=cluster("conflist") + THREE, status=2)
    assert "programs attach the pods with cni conflist" in refused.err
    shown = lab.run("plan", "-f", "-", stdin=cluster("conflist") + THREE).out
    assert "file /etc/cni/net.d/10-containerd-net.conflist" in shown
