"""Encryption between the nodes of calico: links, peers, and routes in a table of their own."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.lab import LabSecret
from kubenetlab.api.plugins.allocations import AddressBlock
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import modes, plan
from kubenetlab.diagnostics import diagnose
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.encryption.wireguard import WireguardDevice, WireguardPeer
from kubenetlab.hoststate.encryption.wireguard_keys import public_key
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.links.wireguard import Wireguard
from kubenetlab.hoststate.policy_rule import PolicyRule
from kubenetlab.hoststate.route import Route
from tests.clusters import ONLINK, applied, deployment, running, settled, store
from tests.unit.datapath.plans import objects_of

LINKS = {4: "wireguard.cali", 6: "wg-v6.cali"}
VERSIONS = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
OTHERS = {"worker": ("control-plane", "worker2"), "control-plane": ("worker", "worker2")}


def cluster(family: str = "dual", options: str = "", fabric: str = "{}") -> Cluster:
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {{type: calico, wireguard: true{options}}}}}\n"
        f"fabric: {fabric}\n---\n"
    )
    made = running(store(text + deployment(replicas=6)))
    return made.with_changes([LabSecret(seed="11" * 32)])


def on_node(state_of: Cluster, type_: type[Any], node: str = "worker") -> list[Any]:
    return objects_of(plan(state_of, ONLINK), f"node/{node}", type_)


def blocks_of(made: Cluster, node: str, version: int) -> set[str]:
    return {
        block.cidr
        for block in made.all(AddressBlock)
        if block.node == node and (":" in block.cidr) == (version == 6)
    }


@pytest.mark.parametrize("family", VERSIONS)
@pytest.mark.parametrize("backend", ["bgp", "vxlan"])
def test_blocks_of_other_nodes_are_routed_to_peers(family: str, backend: str) -> None:
    """The allowed networks of a peer are its blocks, and the table has a route for each."""
    made = cluster(family, f", backend: {backend}")
    for node, others in OTHERS.items():
        for version in VERSIONS[family]:
            own = blocks_of(made, node, version)
            theirs = set().union(*(blocks_of(made, other, version) for other in others))
            peers = [
                peer for peer in on_node(made, WireguardPeer, node) if peer.link == LINKS[version]
            ]
            assert {network for peer in peers for network in peer.allowed_ips} == theirs
            assert {peer.port for peer in peers} == {51820 if version == 4 else 51821}
            table = 1 if version == 4 else 2
            routes = {
                (route.destination, route.type, route.link)
                for route in on_node(made, Route, node)
                if route.table == table
            }
            assert routes == {(block, "unicast", LINKS[version]) for block in theirs} | {
                (block, "throw", "") for block in own
            }
        rules = on_node(made, PolicyRule, node)
        assert [str(rule) for rule in rules] == [
            f"rule{' -6' if version == 6 else ''} priority 99 not fwmark 0x200000/0x200000 "
            f"lookup {1 if version == 4 else 2}"
            for version in VERSIONS[family]
        ]
        assert {device.mark for device in on_node(made, WireguardDevice, node)} == {0x200000}


def test_peers_are_known_by_the_keys_of_their_links() -> None:
    """The links of both families have keys of their own, which an unchanged seed gives again."""
    made = cluster()
    keys = {
        (node, device.link): device
        for node in (*OTHERS, "worker2")
        for device in on_node(made, WireguardDevice, node)
    }
    assert len({device.public_key for device in keys.values()}) == 6
    for device in keys.values():
        assert device.public_key == public_key(device.private_key)
    for peer in on_node(made, WireguardPeer):
        assert peer.public_key in {
            keys[node, peer.link].public_key for node in ("control-plane", "worker2")
        }
    other_seed = made.with_changes([LabSecret(seed="22" * 32)])
    assert on_node(made, WireguardDevice) == on_node(cluster(), WireguardDevice)
    assert on_node(made, WireguardDevice) != on_node(other_seed, WireguardDevice)


@pytest.mark.parametrize(
    ("family", "options", "mtu"),
    [
        ("ipv4", "", 1440),
        ("ipv6", "", 1420),
        ("dual", "", 1420),
        ("ipv4", ", backend: vxlan", 1440),
        ("ipv6", ", backend: vxlan", 1420),
        ("ipv4", ", backend: ipip", 1440),
    ],
)
def test_pods_leave_room_for_the_headers(family: str, options: str, mtu: int) -> None:
    """Each link has the MTU of its family; pods have the smallest one."""
    made = cluster(family, options)
    mtus = {link.name: link.mtu for link in on_node(made, Wireguard)}
    assert mtus == {LINKS[version]: 1440 if version == 4 else 1420 for version in VERSIONS[family]}
    state = plan(made, ONLINK)
    (veth,) = {
        link.mtu
        for netns in state.namespaces
        if netns.startswith("pod/default/")
        for link in objects_of(state, netns, Veth)
    }
    assert veth == mtu


def test_the_end_of_a_tunnel_has_an_address_of_the_node_s_block() -> None:
    """It is kept when the option is set again, and nobody else gets it."""
    made = cluster("ipv4")
    (address,) = (obj for obj in on_node(made, Address) if obj.link == LINKS[4])
    host = address.address.partition("/")[0]
    assert address.address.endswith("/32")
    (block,) = (block for block in made.all(AddressBlock) if block.node == "worker")
    assert block.tunnels == {"wireguard": host}
    assert not [pod for pod in made.pods_on("worker") if host in pod.addresses]


def test_wireguard_is_switched_on_and_off_in_a_running_lab() -> None:
    """Off, nothing of it remains in the plan."""
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "networking: {cni: {type: calico, wireguard: %s}}\n---\n"
    )
    made = running(store(text % "false" + deployment(replicas=3)))
    kinds = (Wireguard, WireguardDevice, WireguardPeer, PolicyRule)
    assert all(on_node(made, kind) == [] for kind in kinds)
    switched = settled(applied(made, text % "true"))
    assert all(on_node(switched, kind) for kind in kinds)
    assert [obj for obj in on_node(switched, Address) if obj.link == LINKS[4]]
    switched = settled(applied(switched, text % "false"))
    assert all(on_node(switched, kind) == [] for kind in kinds)


def test_nodes_of_other_segments_need_no_gateway() -> None:
    """On a routed fabric BGP alone does not reach them; encrypted packets do."""
    segments = "nodes: [{role: control-plane}, {role: worker, segment: a}]\n"
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nfabric: {topology: routed}\n"
        + segments
        + "networking: {cni: {type: calico, wireguard: %s}}\n---\n"
    )
    codes = [
        {entry.code for entry in diagnose(store(text % value + deployment(replicas=2)))}
        for value in ("true", "false")
    ]
    assert "gateway-unreachable" not in codes[0]
    assert "gateway-unreachable" in codes[1]


def test_the_kernel_must_have_wireguard() -> None:
    features = {
        value: modes.load("cni", "calico", {"wireguard": value}).requirements.own_features
        for value in (True, False)
    }
    assert features == {True: ("wireguard", "policy routing"), False: ()}
