"""The CNI mode flannel: tunnels and routes, frames on the fabric, repair."""

from __future__ import annotations

import json

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import link, manifest, sent_frames
from tests.labs.test_pod_networks import FLANNEL


@pytest.mark.parametrize("vni", [1, 300])
def test_a_packet_between_nodes_grows_by_fifty_bytes(lab: Lab, vni: int) -> None:
    """The identifier of the tunnel is in each datagram; pods have a smaller MTU instead."""
    lab.up(manifest("ipv4", f"{{type: flannel, vni: {vni}}}"))
    a, c = lab.pod("a"), lab.pod("c")
    with sent_frames(lab, "worker") as frames:
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server
    tunnelled = [frame for frame in frames if frame[2]]
    assert tunnelled
    assert {size - inside for size, inside, _ in tunnelled} == {50}
    assert {identifier for *_, identifier in tunnelled} == {f"{vni:06x}"}
    assert link(lab, a, "eth0")["mtu"] == link(lab, c, "eth0")["mtu"] == 1450
    tunnel = link(lab, lab.place("nodes", "worker"), f"flannel.{vni}")
    assert (tunnel["mtu"], tunnel["linkinfo"]["info_data"]["id"]) == (1450, vni)


@pytest.mark.parametrize(("backend", "mtu"), [("host-gw", 1500), ("direct", 1450)])
def test_packets_to_nodes_of_the_same_subnet_are_routed(lab: Lab, backend: str, mtu: int) -> None:
    """Nothing is encapsulated; pods keep the MTU of the tunnel where there is one."""
    lab.up(manifest("ipv4", FLANNEL[backend]))
    a, c = lab.pod("a"), lab.pod("c")
    with sent_frames(lab, "worker") as frames:
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server
    assert frames
    assert not [frame for frame in frames if frame[2]]
    assert link(lab, a, "eth0")["mtu"] == mtu


def test_a_damaged_tunnel_is_repaired(lab: Lab) -> None:
    """The agent, also a new one, replaces the entries and the link that others deleted."""
    lab.up(manifest("ipv4", FLANNEL["vxlan"]))
    node, a, c = lab.place("nodes", "worker"), lab.pod("a"), lab.pod("c")
    target = ("TCP", c["addresses"][0], 8080)
    (entry,) = [
        entry
        for entry in json.loads(lab.inside(node, "bridge", "-j", "fdb", "show", "dev", "flannel.1"))
        if entry["dst"] == lab.place("nodes", "worker2")["addresses"][0]
    ]
    for command in (
        f"bridge fdb delete {entry['mac']} dev flannel.1 dst {entry['dst']}",
        "ip route delete 10.244.2.0/24",
        "ip link delete flannel.1",
    ):
        lab.inside(node, *command.split())
        wait_for(lambda: lab.run("diff", status=None).status == 0, f"the repair after {command}")
        assert lab.ask(a, target)[0].server, command
    lab.kill("agent")
    lab.inside(node, "ip", "link", "delete", "flannel.1")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair by the new agent")
    assert lab.problems == []
