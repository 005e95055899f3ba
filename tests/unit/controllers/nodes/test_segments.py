"""Segments of a routed fabric: subnets of nodes, and what depends on them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.config import ClusterConfig, Fabric, Networking, NodeConfig
from kubenetlab.api.core import Node
from kubenetlab.api.segments import MAX_SEGMENTS, segment_networks, segment_of
from kubenetlab.api.store import Cluster
from kubenetlab.errors import ManifestError
from kubenetlab.names import mac_of
from tests.clusters import applied, problems_of, store

ROUTED = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{nodes}]
fabric: {{topology: routed}}
networking: {{ipFamily: {family}, cni: {cni}}}
"""
RANGES = {4: ip_network("172.18.0.0/16"), 6: ip_network("fd00:172:18::/48")}


def routed(*nodes: str, family: str = "ipv4", cni: str = "{type: flannel}") -> str:
    """Return a Cluster document; a node is `name` or `name=segment`."""
    entries = []
    for node in nodes:
        name, _, segment = node.partition("=")
        entries.append(f"{{role: worker, name: {name}, segment: '{segment}'}}")
    return ROUTED.format(nodes=", ".join(entries), family=family, cni=cni)


def addresses(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    return {node.name: node.addresses for node in cluster.all(Node)}


def test_a_node_without_a_segment_has_a_subnet_of_its_own() -> None:
    cluster = store(routed("a", "b=rack", "c=rack", "d", family="dual"))
    assert addresses(cluster) == {
        "a": ("172.18.1.2", "fd00:172:18:1::1:2"),
        "b": ("172.18.2.2", "fd00:172:18:2::2:2"),
        "c": ("172.18.2.3", "fd00:172:18:2::2:3"),
        "d": ("172.18.3.2", "fd00:172:18:3::3:2"),
    }


def test_nodes_keep_their_subnets_when_others_come_and_go() -> None:
    """A new segment gets the smallest number that is free; a known name is the same segment."""
    cluster = store(routed("a", "b", "c=rack"))
    smaller = applied(cluster, routed("a", "c=rack"))
    assert addresses(smaller) == {"a": ("172.18.1.2",), "c": ("172.18.3.2",)}
    larger = applied(smaller, routed("e=rack", "d", "a", "c=rack"))
    assert addresses(larger) == {
        "e": ("172.18.3.3",),
        "d": ("172.18.2.2",),
        "a": ("172.18.1.2",),
        "c": ("172.18.3.2",),
    }


@given(
    st.lists(st.sampled_from(["", "x", "y", "z"]), min_size=1, max_size=12),
    st.sampled_from(["ipv4", "ipv6", "dual"]),
)
def test_addresses_agree_with_segments(segments: list[str], family: str) -> None:
    """Nodes share a subnet if and only if they share a segment; every address is found again."""
    cluster = store(routed(*(f"n{i}={name}" for i, name in enumerate(segments)), family=family))
    by_node = addresses(cluster)
    config = cluster.config
    assert len({address for own in by_node.values() for address in own}) == sum(
        map(len, by_node.values())
    )
    assert len({mac_of(address) for own in by_node.values() for address in own[-1:]}) == len(
        by_node
    )
    numbers = {}
    for index, own in enumerate(by_node.values()):
        (number,) = {segment_of(config, address) for address in own}
        numbers[index] = number
        for address, subnet in zip(own, segment_networks(config, number), strict=True):
            assert ip_address(address) in subnet
            assert subnet.subnet_of(RANGES[subnet.version])  # type: ignore[arg-type]
    for i, first in enumerate(segments):
        for j, second in enumerate(segments):
            assert (numbers[i] == numbers[j]) == (i == j or (bool(first) and first == second))


@given(st.integers(1, MAX_SEGMENTS), st.integers(1, MAX_SEGMENTS))
def test_subnets_of_segments_do_not_overlap(one: int, other: int) -> None:
    networking = Networking(
        ip_family="dual",
        pod_subnet="10.244.0.0/16,fd00:10:244::/56",
        service_subnet="10.96.0.0/16,fd00:10:96::/112",
    )
    config = ClusterConfig(fabric=Fabric("routed"), networking=networking)
    pairs = zip(segment_networks(config, one), segment_networks(config, other), strict=True)
    assert all((first == second) == (one == other) for first, second in pairs)
    assert all(first.overlaps(second) == (one == other) for first, second in pairs)


def test_a_switched_fabric_has_one_segment() -> None:
    config = ClusterConfig(nodes=(NodeConfig(), NodeConfig(role="worker")))
    assert set(config.segments) == {""}
    assert segment_networks(config, 0) == config.node_networks == (RANGES[4],)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind: Cluster\napiVersion: kubenetlab.dev/v1alpha1\nnodes: [{segment: a}]\n",
            "nodes[0].segment: expected no segment with fabric.topology switched",
        ),
        (routed("a=A_1"), "nodes[0].segment: expected a DNS label"),
        (routed(*(f"n{i}" for i in range(256))), "nodes: expected at most 255 segments"),
        (routed(*(f"n{i}=x" for i in range(254))), "expected at most 253 nodes on segment x"),
        (
            routed(*(f"n{i}=x" for i in range(253))).replace(
                "topology: routed", "topology: routed, bgp: {routers: 2}"
            ),
            "expected at most 252 nodes on segment x",
        ),
        (
            routed("a", "b", cni="bridge"),
            "networking.cni: bridge needs all nodes on one layer-2 segment",
        ),
    ],
)
def test_a_wrong_fabric_is_refused(text: str, message: str) -> None:
    problems = [f"{problem.path}: {problem.message}" for problem in problems_of(text)]
    assert any(message in problem for problem in problems), problems


def test_the_mode_bridge_accepts_one_segment() -> None:
    assert problems_of(routed("a=x", "b=x", cni="bridge")) == []
    assert problems_of(routed("a", cni="bridge")) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (routed("a=x", "b=z"), "nodes[1].segment"),
        (routed("a=x", "b"), "nodes[1].segment"),
        (
            routed("a=x", "b=y")
            .replace("routed", "switched")
            .replace("'x'", "''")
            .replace("'y'", "''"),
            "fabric.topology",
        ),
    ],
)
def test_nodes_do_not_move_while_the_lab_is_up(text: str, path: str) -> None:
    cluster = store(routed("a=x", "b=y"))
    with pytest.raises(ManifestError, match="cannot change while the lab is up") as error:
        applied(cluster, text)
    assert path in str(error.value)
