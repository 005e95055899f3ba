"""The CNI mode weave: one subnet across nodes, nodes that come and go, and repair."""

from __future__ import annotations

import ipaddress
import json

import pytest

from kubenetlab.kernel.features.overlay_probes import OVERLAY_PROBES
from kubenetlab.kernel.features.probing import run_probes
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import link, manifest, sent_frames


def test_pods_of_different_nodes_are_on_one_subnet(lab: Lab) -> None:
    """A pod resolves a pod of another node itself, and the packet is routed by nobody."""
    lab.up(manifest("ipv4", "weave"))
    a, c = lab.pod("a"), lab.pod("c")
    (address,) = c["addresses"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network("10.32.0.0/12")
    with sent_frames(lab, "worker", 6784) as frames:
        assert lab.ask(a, ("TCP", address, 8080))[0].server
    assert {size - inside for size, inside, vni in frames if vni} >= {50}
    neighbors = json.loads(lab.inside(a, "ip", "-j", "neighbor", "show", address))
    assert neighbors[0]["lladdr"] == link(lab, c, "eth0")["address"]
    assert link(lab, a, "eth0")["mtu"] == 1376
    ping = lab.inside(a, "ping", "-c", "1", "-W", "2", address)
    assert "ttl=64" in ping


def test_a_large_lab_floods_no_first_packets(lab: Lab) -> None:
    """With permanent entries, the node's first packet to a pod reaches no other pod or node."""
    lab.up(manifest("ipv4", "{type: weave, neighbors: permanent}"))
    for name in "abc":
        pod = lab.pod(name)
        node = lab.place("nodes", pod["node"])
        entries = json.loads(lab.inside(node, "bridge", "-j", "fdb", "show", "br", "weave"))
        mac = link(lab, pod, "eth0")["address"]
        (entry,) = (entry for entry in entries if entry["mac"] == mac)
        assert entry["ifname"].startswith("vethwepl"), entry
        assert entry["state"] == "static"
    assert lab.problems == []


def test_nodes_come_and_go(lab: Lab) -> None:
    """A new node gets a part of the subnet, and its pods are reached at once."""
    lab.up(manifest("ipv4", "weave"))
    nodes = "nodes: [{role: control-plane}, {role: worker}, {role: worker}, {role: worker}]"
    cluster = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n{nodes}\n"
        "networking: {cni: weave}\n---\n"
        "apiVersion: v1\nkind: Pod\nmetadata: {name: d}\n"
        "spec: {nodeName: worker3, containers: [{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
    )
    lab.apply(cluster)
    d = lab.pod("d")
    for name in "abc":
        (answer,) = lab.ask(lab.pod(name), ("TCP", d["addresses"][0], 8080))
        assert answer.client[0] == lab.pod(name)["addresses"][0]
    lab.apply(cluster.split("---")[0].replace(", {role: worker}]", "]"))
    (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.pod("c")["addresses"][0], 8080))
    assert answer.server
    assert lab.problems == []


def test_a_damaged_tunnel_is_repaired(lab: Lab) -> None:
    """Broadcasts reach all nodes again after others have changed the link or its entries."""
    lab.up(manifest("ipv4", "weave"))
    node, a, c = lab.place("nodes", "worker"), lab.pod("a"), lab.pod("c")
    peer = lab.place("nodes", "worker2")["addresses"][0]
    for command in (
        f"bridge fdb delete 00:00:00:00:00:00 dev vxlan-6784 dst {peer} self",
        "ip link set vxlan-6784 nomaster",
        "ip link delete vxlan-6784",
    ):
        lab.inside(node, *command.split())
        wait_for(lambda: lab.run("diff", status=None).status == 0, f"the repair after {command}")
        lab.inside(a, "ip", "neighbor", "flush", "dev", "eth0")
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server, command


def test_a_password_is_refused_before_anything_changes(lab: Lab) -> None:
    """A kernel without ESP cannot encrypt: `up` creates no lab, and `apply` changes none."""
    (outcome,) = run_probes([probe for probe in OVERLAY_PROBES if probe.name == "ESP"])
    if not outcome.fault:
        pytest.skip("this kernel has ESP")
    encrypted = manifest("ipv4", "{type: weave, passwordSecret: weave-passwd}")
    refused = lab.run("up", "-f", "-", stdin=encrypted, status=1)
    assert "cni weave needs ESP: " in refused.err
    assert "CONFIG_INET_ESP" in refused.err
    assert not lab.directory.exists()
    lab.up(manifest("ipv4", "weave"))
    before = lab.inspected
    refused = lab.apply(encrypted, status=1)
    assert "cni weave needs ESP: " in refused.err
    assert lab.inspected["pods"] == before["pods"]
    assert lab.run("diff").status == 0
    assert lab.run("check", "-o", "json").json["ok"]
