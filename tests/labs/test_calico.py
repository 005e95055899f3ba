"""The CNI mode calico: blocks, pools, tunnels between nodes, and repair."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from kubenetlab.kernel.features.overlay_probes import OVERLAY_PROBES
from kubenetlab.kernel.features.probing import run_probes
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import link, manifest, sent_frames

VXLAN = "{type: calico, backend: vxlan}"


def routes(lab: Lab, node: str) -> list[dict[str, Any]]:
    shown = lab.inside(lab.place("nodes", node), "ip", "-j", "-d", "route")
    return list(json.loads(shown))


def block_of(lab: Lab, node: str) -> ipaddress.IPv4Network:
    """Return the block of a node, which is a blackhole there."""
    (block,) = [route["dst"] for route in routes(lab, node) if route["type"] == "blackhole"]
    return ipaddress.IPv4Network(block)


def test_a_node_announces_its_block_and_drops_what_nobody_has(lab: Lab) -> None:
    """Each pod has a route of its own; other nodes have a route to the whole block."""
    lab.up(manifest("ipv4", VXLAN))
    block, a, c = block_of(lab, "worker"), lab.pod("a"), lab.pod("c")
    pods = [lab.pod("a"), lab.pod("b")]
    assert block.prefixlen == 26
    by_destination = {route["dst"]: route for route in routes(lab, "worker")}
    for pod in pods:
        (address,) = pod["addresses"]
        assert ipaddress.ip_address(address) in block
        route = by_destination[address]
        assert route["dev"].startswith("cali")
        host_end = link(lab, lab.place("nodes", "worker"), route["dev"])
        assert host_end["address"] == "ee:ee:ee:ee:ee:ee"
    (remote,) = [route for route in routes(lab, "worker2") if route["dst"] == str(block)]
    assert (remote["dev"], remote["flags"]) == ("vxlan.calico", ["onlink"])
    unused = str(block[60])
    assert not lab.ask(c, ("TCP", unused, 8080))[0].server
    gateway = lab.inside(a, "ip", "-j", "neighbor", "show", "169.254.1.1")
    assert json.loads(gateway)[0]["lladdr"] == "ee:ee:ee:ee:ee:ee"


@pytest.mark.parametrize(("options", "is_tunnelled"), [("", True), (", crossSubnet: true", False)])
def test_packets_to_other_nodes_pass_a_tunnel(lab: Lab, options: str, is_tunnelled: bool) -> None:
    """CrossSubnet encapsulates nothing between nodes of one subnet; pods keep the smaller MTU."""
    lab.up(manifest("ipv4", f"{{type: calico, backend: vxlan{options}}}"))
    a, c = lab.pod("a"), lab.pod("c")
    with sent_frames(lab, "worker", 4789) as frames:
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server
    tunnelled = [frame for frame in frames if frame[2]]
    assert bool(tunnelled) is is_tunnelled
    assert {size - inside for size, inside, _ in tunnelled} <= {50}
    assert {identifier for *_, identifier in tunnelled} <= {f"{4096:06x}"}
    assert link(lab, a, "eth0")["mtu"] == 1450


def test_pools_change_while_the_lab_is_up(lab: Lab) -> None:
    """A new pool serves new pods of its nodes; nodes have routes to its blocks at once."""
    lab.up(manifest("ipv4", VXLAN))
    pool = (
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: second}\n"
        "spec: {cidr: 10.9.0.0/24, natOutgoing: true, vxlanMode: Always, blockSize: 28}\n---\n"
        "apiVersion: v1\nkind: Pod\nmetadata: {name: d, annotations: "
        "{cni.projectcalico.org/ipv4pools: '[\"second\"]'}}\n"
        "spec: {nodeName: worker2, containers: [{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
    )
    lab.apply(pool)
    d, a = lab.pod("d"), lab.pod("a")
    assert d["addresses"][0].startswith("10.9.0.")
    (answer,) = lab.ask(a, ("TCP", d["addresses"][0], 8080))
    assert answer.client[0] == a["addresses"][0]
    (answer,) = lab.ask(d, ("TCP", "198.51.100.10", 8080))
    assert answer.client[0] in lab.place("nodes", "worker2")["addresses"]
    assert lab.problems == []


def test_damage_is_repaired(lab: Lab) -> None:
    """Routes, settings and links that others removed are made again."""
    lab.up(manifest("ipv4", VXLAN))
    node, a, c = lab.place("nodes", "worker"), lab.pod("a"), lab.pod("c")
    (workload,) = [r["dev"] for r in routes(lab, "worker") if r["dst"] == a["addresses"][0]]
    block = block_of(lab, "worker2")
    for command in (
        f"ip route delete {a['addresses'][0]}",
        f"ip route delete {block}",
        "ip link delete vxlan.calico",
        f"ip link delete {workload}",
    ):
        lab.inside(node, *command.split())
        wait_for(lambda: lab.run("diff", status=None).status == 0, f"the repair after {command}")
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server, command
    assert lab.problems == []


def sessions(lab: Lab, node: str) -> dict[str, str]:
    """Return the state of each BGP session of a node."""
    shown = lab.run("exec", f"node:{node}", "--", "birdc", "show", "protocols", status=None)
    fields = [line.split() for line in shown.out.splitlines()]
    return {words[0]: words[-1] for words in fields if words[1:2] == ["BGP"]}


def test_nodes_exchange_their_blocks_by_bgp(lab: Lab) -> None:
    """A killed BIRD is started again; meanwhile packets take the same routes."""
    lab.up(manifest("ipv4", "calico"))
    a, c, block = lab.pod("a"), lab.pod("c"), str(block_of(lab, "worker2"))
    (route,) = [route for route in routes(lab, "worker") if route["dst"] == block]
    worker2 = lab.place("nodes", "worker2")["addresses"][0]
    assert (route["protocol"], route["gateway"], route["dev"]) == ("bird", worker2, "eth0")
    assert set(sessions(lab, "worker").values()) == {"Established"}
    assert link(lab, a, "eth0")["mtu"] == 1500
    target = ("TCP", c["addresses"][0], 8080)
    lab.run("exec", "node:worker2", "--", "pkill", "-9", "-x", "bird")
    assert lab.ask(a, target)[0].server
    wait_for(
        lambda: set(sessions(lab, "worker").values()) == {"Established"}, "sessions after the end"
    )
    # BIRD may still wait for the routes of its neighbours.
    wait_for(lambda: lab.ask(a, target)[0].server, "an answer after the end")
    lab.kill("agent")
    assert lab.ask(a, target)[0].server
    assert set(sessions(lab, "worker").values()) == {"Established"}


def test_a_new_node_and_its_blocks_are_announced(lab: Lab) -> None:
    lab.up(manifest("ipv4", "calico"))
    nodes = "nodes: [{role: control-plane}, {role: worker}, {role: worker}, {role: worker}]"
    cluster = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n{nodes}\n"
        "networking: {cni: calico}\n---\n"
        "apiVersion: v1\nkind: Pod\nmetadata: {name: d}\n"
        "spec: {nodeName: worker3, containers: [{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
    )
    lab.apply(cluster)
    target = ("TCP", lab.pod("d")["addresses"][0], 8080)
    wait_for(lambda: bool(lab.ask(lab.pod("a"), target)[0].server), "a route to the new node")
    (answer,) = lab.ask(lab.pod("a"), target)
    assert answer.client[0] == lab.pod("a")["addresses"][0]


def test_nodes_have_sessions_with_reflectors_only(lab: Lab) -> None:
    """Routes of other nodes come from the reflector, with the announcing node as next hop."""
    lab.up(manifest("ipv4", "{type: calico, routeReflectors: [control-plane]}"))
    assert len(sessions(lab, "worker")) == 1
    assert len(sessions(lab, "control-plane")) == 2
    block = str(block_of(lab, "worker2"))
    (route,) = [route for route in routes(lab, "worker") if route["dst"] == block]
    assert route["gateway"] == lab.place("nodes", "worker2")["addresses"][0]


def test_unknown_nodes_are_reported(lab: Lab) -> None:
    cni = "{type: calico, routeReflectors: [worker9], peers: [{address: x, asNumber: 1}]}"
    done = lab.up(manifest("ipv4", cni), status=2)
    assert "networking.cni.peers[0].address: expected an address" in done.err
    cni = "{type: calico, routeReflectors: [worker9]}"
    done = lab.up(manifest("ipv4", cni), status=2)
    assert (
        'networking.cni.routeReflectors[0]: no node of this cluster is called "worker9"; did'
        in (done.err)
    )


def test_wireguard_is_refused_before_anything_changes(lab: Lab) -> None:
    """On a kernel without WireGuard `up` creates no lab, and changes no running one."""
    (outcome,) = run_probes([probe for probe in OVERLAY_PROBES if probe.name == "wireguard"])
    if not outcome.fault:
        pytest.skip("this kernel has WireGuard")
    encrypted = manifest("ipv4", "{type: calico, backend: vxlan, wireguard: true}")
    plain = manifest("ipv4", "{type: calico, backend: vxlan}")
    refused = lab.run("up", "-f", "-", stdin=encrypted, status=1)
    assert "cni calico needs wireguard: " in refused.err
    assert "CONFIG_WIREGUARD" in refused.err
    assert not lab.directory.exists()
    lab.up(plain)
    refused = lab.run("up", "-f", "-", stdin=encrypted, status=1)
    assert "cni calico needs wireguard: " in refused.err
    assert lab.run("diff").status == 0
    assert lab.run("check", "-o", "json").json["ok"]
