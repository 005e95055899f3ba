"""Encryption of cilium's tunnels: a mark, a table and a link whose peers are the other nodes."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.lab import LabSecret
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import modes, plan
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.hoststate.encryption.wireguard import WireguardDevice, WireguardPeer
from kubenetlab.hoststate.links.wireguard import Wireguard
from kubenetlab.hoststate.policy_rule import PolicyRule
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.cilium_entries import CONFIG
from kubenetlab.hoststate.rules.cilium_objects import CiliumPrograms
from tests.clusters import ONLINK, deployment, problems_of, running, store
from tests.unit.datapath.plans import objects_of

NODES = ("control-plane", "worker", "worker2")


def document(family: str = "ipv4", options: str = ", enableWireguard: true") -> str:
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {{type: cilium{options}}}}}\n---\n"
    )


def cluster(family: str = "ipv4", options: str = ", enableWireguard: true") -> Cluster:
    made = running(store(document(family, options) + deployment(replicas=3)))
    return made.with_changes([LabSecret(seed="11" * 32)])


def on_node(made: Cluster, type_: type[Any], node: str = "worker") -> list[Any]:
    return objects_of(plan(made, ONLINK), f"node/{node}", type_)


@pytest.mark.parametrize(
    ("family", "version", "mtu"), [("ipv4", 4, 1370), ("ipv6", 6, 1350), ("dual", 4, 1370)]
)
def test_packets_of_tunnels_are_routed_to_the_link(family: str, version: int, mtu: int) -> None:
    """Only the family of the tunnels needs it, because both families are in them."""
    made = cluster(family)
    (link,) = on_node(made, Wireguard)
    assert (link.name, link.mtu) == ("cilium_wg0", 1420)
    (rule,) = on_node(made, PolicyRule)
    suffix = " -6" if version == 6 else ""
    assert str(rule) == f"rule{suffix} priority 1 fwmark 0xe00/0xf00 lookup 201"
    (route,) = (route for route in on_node(made, Route) if route.table == 201)
    assert (route.link, route.destination) == (
        "cilium_wg0",
        "0.0.0.0/0" if version == 4 else "::/0",
    )
    (programs,) = on_node(made, CiliumPrograms)
    assert route.source == programs.underlay
    ((_, value),) = programs.entries()
    assert CONFIG.unpack(value)[-1] == 1
    mtus = {route.mtu for route in on_node(made, Route) if route.link == "cilium_host"}
    assert mtus - {0} == {mtu}


def test_each_other_node_is_a_peer_with_its_own_address() -> None:
    made = cluster()
    devices = {node: on_node(made, WireguardDevice, node)[0] for node in NODES}
    assert {device.port for device in devices.values()} == {51871}
    peers = on_node(made, WireguardPeer)
    assert {peer.public_key for peer in peers} == {
        devices[node].public_key for node in ("control-plane", "worker2")
    }
    for peer in peers:
        assert peer.allowed_ips == (f"{peer.address}/32",)


def test_without_the_option_nothing_of_it_is_there() -> None:
    made = cluster(options="")
    for kind in (Wireguard, WireguardDevice, WireguardPeer, PolicyRule):
        assert on_node(made, kind) == []
    (programs,) = on_node(made, CiliumPrograms)
    ((_, value),) = programs.entries()
    assert CONFIG.unpack(value)[-1] == 0


def test_native_routing_is_refused_with_it() -> None:
    (problem,) = problems_of(document(options=", enableWireguard: true, routingMode: native"))
    assert "only the packets of tunnels are encrypted" in problem.message


def test_the_kernel_must_have_wireguard() -> None:
    mode = modes.load("cni", "cilium", {"enableWireguard": True})
    assert {"wireguard", "policy routing"} <= set(mode.requirements.own_features)
    plain = modes.load("cni", "cilium", {}).requirements.own_features
    assert not {"wireguard", "policy routing"} & set(plain)


def test_the_fabric_sees_wireguard_with_vxlan_in_it() -> None:
    """The overhead is that of both: 60 and 50 bytes with IPv4."""
    outer = Encapsulation("udp", 51871, "wireguard", has_vxlan=True)
    assert [outer.overhead_bytes(version) for version in (4, 6)] == [110, 150]
