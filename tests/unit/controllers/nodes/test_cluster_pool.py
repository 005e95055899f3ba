"""Cilium's cluster pools: ranges of nodes, addresses in them, exhaustion, and removed nodes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.core import Event, Node
from kubenetlab.api.environment import ConfigMap
from kubenetlab.api.lab import Attachment
from kubenetlab.api.plugins.allocations import ClusterPoolState
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.api.values.ip import is_part
from kubenetlab.controllers.nodes.ipam import node_ranges
from kubenetlab.controllers.nodes.ipam.allocator import AllocationFailure
from kubenetlab.controllers.nodes.ipam.cluster_pool import ClusterPool
from tests.clusters import applied, pod, pod_named, problems_of, settled, store, without_pod
from tests.examples import examples


def cluster_of(
    nodes: int, *pools: str, family: str = "ipv4", size: int = 24, options: str = ""
) -> str:
    workers = ", {role: worker}" * (nodes - 1)
    listed = f", clusterPoolIPv4PodCIDRList: [{', '.join(pools)}]" if pools else ""
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane}}{workers}]\n"
        f"networking: {{ipFamily: {family}, cni: {{type: cilium, ipam: cluster-pool{listed}, "
        f"clusterPoolIPv4MaskSize: {size}{options}}}}}\n---\n"
    )


def on(node: str) -> str:
    return f", nodeName: {node}"


def ranges(cluster: Cluster) -> dict[str, list[str]]:
    return {node.name: node_ranges(cluster, node) for node in cluster.all(Node)}


def addresses(cluster: Cluster, name: str) -> tuple[str, ...]:
    attachment = cluster.get(Attachment, "default", name)
    return attachment.addresses if attachment is not None else ()


def messages(cluster: Cluster) -> list[str]:
    return [
        event.message for event in cluster.all(Event) if event.reason == "FailedCreatePodSandBox"
    ]


def test_nodes_get_ranges_of_the_pools_and_not_their_pod_cidrs() -> None:
    """A pool is used up before the next one; pods have addresses after that of cilium_host."""
    text = cluster_of(3, "10.244.64.0/26", "10.244.80.0/24", size=27)
    cluster = store(text + pod("a", on("worker2")) + pod("b", on("worker2")))
    assert ranges(cluster) == {
        "control-plane": ["10.244.64.0/27"],
        "worker": ["10.244.64.32/27"],
        "worker2": ["10.244.80.0/27"],
    }
    assert [addresses(cluster, name) for name in "ab"] == [("10.244.80.2",), ("10.244.80.3",)]
    node = cluster.node("worker2")
    assert node is not None
    assert node.spec.pod_cidr == "10.244.2.0/24"
    data = cluster.get(ConfigMap, "kube-system", "cilium-config")
    assert data is not None
    assert {key: value for key, value in data.data.items() if "pool" in f"{key}{value}"} == {
        "ipam": "cluster-pool",
        "cluster-pool-ipv4-cidr": "10.244.64.0/26 10.244.80.0/24",
        "cluster-pool-ipv4-mask-size": "27",
    }


def test_the_pod_ranges_of_the_cluster_are_the_pools_by_default() -> None:
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "networking: {ipFamily: dual, cni: {type: cilium, ipam: cluster-pool}}\n---\n"
    )
    cluster = store(text + pod("a", on("worker")))
    for node in cluster.all(Node):
        assert node_ranges(cluster, node) == list(node.spec.pod_cidrs)
    assert len(addresses(cluster, "a")) == 2


def test_a_node_has_a_range_of_each_family_or_none() -> None:
    """A node gets no range of one family while none of the other family is free."""
    pools = ", clusterPoolIPv6PodCIDRList: ['fd00:10:244:8::/63'], clusterPoolIPv6MaskSize: 64"
    text = cluster_of(3, "10.244.64.0/20", family="dual", options=pools)
    cluster = store(text + pod("a", on("worker")) + pod("b", on("worker2")))
    assert ranges(cluster)["worker"] == ["10.244.65.0/24", "fd00:10:244:9::/64"]
    assert ranges(cluster)["worker2"] == []
    assert addresses(cluster, "a") == ("10.244.65.2", "fd00:10:244:9::2")
    assert addresses(cluster, "b") == ()


def test_pods_on_a_node_without_a_range_wait_and_have_an_event() -> None:
    cluster = store(cluster_of(3, "10.244.64.0/23") + pod("a", on("worker2")))
    assert ranges(cluster)["worker2"] == []
    assert addresses(cluster, "a") == ()
    assert messages(cluster) == [
        'Failed to create pod sandbox: plugin type="cilium-cni" failed (add): required IPv4 PodCIDR'
        " not available: no range of /24 is left in the cluster pool 10.244.64.0/23 for node"
        " worker2"
    ]


def test_a_node_gets_no_further_range_when_its_own_is_used_up() -> None:
    pods = "".join(pod(f"p{number}", on("worker")) for number in range(6))
    cluster = store(cluster_of(2, "10.244.64.0/24", size=29) + pods)
    assert ranges(cluster)["worker"] == ["10.244.64.8/29"]
    assert sum(bool(addresses(cluster, f"p{number}")) for number in range(6)) == 5
    exhausted = "no IP addresses available in range set: 10.244.64.9-10.244.64.14"
    assert all(exhausted in message for message in messages(cluster))
    assert messages(cluster)
    again = settled(without_pod(cluster, "p0"))
    assert sum(bool(addresses(again, f"p{number}")) for number in range(6)) == 5


def test_the_range_of_a_removed_node_is_released_when_its_pods_are_gone() -> None:
    """A node that waits for a range gets it then, and its pods get addresses."""
    text = cluster_of(3, "10.244.64.0/23")
    cluster = store(text + pod("a", on("worker")) + pod("b", on("worker2")))
    assert addresses(cluster, "b") == ()
    (state,) = cluster.all(ClusterPoolState)
    reduced = text.replace(
        "{role: worker}, {role: worker}", "{role: worker, name: worker2}"
    ).removesuffix("---\n")
    after = applied(cluster, reduced)
    assert after.node("worker") is None
    assert ranges(after)["worker2"] == list(state.ranges["worker"])
    assert "worker" not in ranges(after)
    assert addresses(after, "b") == ("10.244.65.2",)


def test_the_range_of_a_removed_node_is_kept_while_pods_have_its_addresses() -> None:
    """Pods of a removed node end after it; no other pod gets their addresses until then."""
    text = cluster_of(3, "10.244.64.0/23")
    cluster = store(text + pod("a", on("worker")) + pod("b", on("worker2")))
    node, waiting, waiting_pod = (
        cluster.node("worker"),
        cluster.node("worker2"),
        pod_named(cluster, "b"),
    )
    assert node is not None
    assert waiting is not None
    attached = cluster.with_changes([deletion(node)])
    assert isinstance(
        ClusterPool(attached, ["worker2"]).allocate(waiting_pod, waiting), AllocationFailure
    )
    on_node = [entry for entry in cluster.all(Attachment) if entry.node == "worker"]
    gone = attached.with_changes(map(deletion, on_node))
    assert ClusterPool(gone, ["worker2"]).allocate(waiting_pod, waiting) == ("10.244.65.2",)


def test_a_released_range_is_not_reused_before_the_others() -> None:
    text = cluster_of(2, "10.244.64.0/22")
    cluster = store(text)
    (state,) = cluster.all(ClusterPoolState)
    assert state.ranges["worker"] == ("10.244.65.0/24",)
    for name, expected in (
        ("x", "10.244.66.0/24"),
        ("y", "10.244.67.0/24"),
        ("z", "10.244.65.0/24"),
    ):
        cluster = applied(cluster, text.replace("role: worker", f"role: worker, name: {name}"))
        assert ranges(cluster)[name] == [expected]


@settings(max_examples=examples(40))
@given(st.integers(0, 2**32))
def test_no_address_and_no_range_is_used_twice(seed: int) -> None:
    """Nodes and pods come and go in random order, with room for three nodes with five pods each."""
    random = Random(seed)
    names = ["a", "b", "c", "d"]
    present = ["a", "b"]

    def document() -> str:
        nodes = "".join(f", {{role: worker, name: {name}}}" for name in sorted(present))
        return cluster_of(1, "10.244.7.0/28", "10.244.9.8/29", size=29).replace(
            "[{role: control-plane}]", f"[{{role: control-plane}}{nodes}]"
        )

    cluster = store(document())
    for number in range(12):
        choice = random.random()
        if choice < 0.25:
            name = random.choice(names)
            (present.remove if name in present else present.append)(name)
            cluster = applied(cluster, document())
        elif choice < 0.45 and (known := cluster.all(Attachment)):
            gone = random.choice(known)
            found = cluster.select(gone.namespace, {"app": gone.name})
            cluster = cluster.with_changes([deletion(gone), *map(deletion, found)])
        elif present:
            meta = f", labels: {{app: p{number}}}"
            cluster = applied(cluster, pod(f"p{number}", on(random.choice(present)), meta=meta))
        cluster = settled(cluster)
        (state,) = cluster.all(ClusterPoolState)
        given_ranges = [cidr for cidrs in state.ranges.values() for cidr in cidrs]
        assert len(given_ranges) == len(set(given_ranges)) <= 3
        for cidr in given_ranges:
            parent = "10.244.9.8/29" if cidr.startswith("10.244.9.") else "10.244.7.0/28"
            assert is_part(ip_network(cidr), ip_network(parent))
        if len(present) + 1 <= 3:
            assert all(node_ranges(cluster, node) for node in cluster.all(Node))
        used = [text for entry in cluster.all(Attachment) for text in entry.addresses]
        assert len(used) == len(set(used))
        for entry in cluster.all(Attachment):
            (cidr,) = state.ranges[entry.node]
            assert all(ip_address(text) in ip_network(cidr) for text in entry.addresses)
            assert ip_network(cidr)[1] not in map(ip_address, entry.addresses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "clusterPoolIPv4PodCIDRList: [10.96.0.0/20]",
            "test.yaml:3  Cluster: networking.cni.clusterPoolIPv4PodCIDRList[0]: 10.96.0.0/20 "
            "overlaps the range of Services (10.96.0.0/16)",
        ),
        (
            "clusterPoolIPv4PodCIDRList: [172.18.0.0/20]",
            "172.18.0.0/20 overlaps the range of the nodes (172.18.0.0/16)",
        ),
        (
            "clusterPoolIPv4PodCIDRList: [10.0.0.0/20]",
            "expected a part of the pods' range (podSubnet: 10.244.0.0/16), found 10.0.0.0/20",
        ),
        (
            "clusterPoolIPv4PodCIDRList: [10.244.0.0/20, 10.244.8.0/24]",
            "clusterPoolIPv4PodCIDRList[1]: 10.244.8.0/24 overlaps the pool 10.244.0.0/20",
        ),
        (
            "clusterPoolIPv4PodCIDRList: [10.244.0.0/26], clusterPoolIPv4MaskSize: 24",
            "expected a pool with room for a node's range of /24, found 10.244.0.0/26",
        ),
        (
            "clusterPoolIPv4PodCIDRList: [10.244.0.1/24]",
            "expected a range such as 10.244.0.0/20, found",
        ),
        (
            "clusterPoolIPv4PodCIDRList: ['fd00::/64']",
            "expected a range of IPv4, found fd00::/64",
        ),
        (
            "clusterPoolIPv6MaskSize: 8, clusterPoolIPv6PodCIDRList: ['fd00::/16']",
            "clusterPoolIPv6PodCIDRList: has no effect: the cluster has no IPv6",
        ),
        (
            "clusterPoolIPv4PodCIDRList: [10.244.0.0/24], clusterPoolIPv4MaskSize: 25",
            "10.244.0.0/24 has room for 2 ranges of /25, and 3 nodes need one",
        ),
    ],
)
def test_contradictions_are_reported(options: str, message: str) -> None:
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{cni: {{type: cilium, ipam: cluster-pool, {options}}}}}\n"
    )
    problems = [str(problem) for problem in problems_of(text)]
    assert any(message in problem for problem in problems), problems


def test_pools_without_the_ipam_are_a_warning() -> None:
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "networking: {cni: {type: cilium, clusterPoolIPv4MaskSize: 25}}\n"
    )
    (problem,) = problems_of(text)
    assert "clusterPoolIPv4MaskSize: has no effect with ipam: kubernetes" in str(problem)


def asking(name: str, address: str) -> str:
    return pod(name, meta=f', annotations: {{kubenetlab.dev/addresses: "{address}"}}')


def node_of(cluster: Cluster, name: str) -> str:
    return pod_named(cluster, name).spec.node_name


def test_the_node_whose_range_has_the_requested_address_is_chosen() -> None:
    """The scheduler compares ranges of the pool, not podCIDRs, also when it assigns the first ones.

    The range of worker is a part of the podCIDR of control-plane.
    """
    text = cluster_of(3, size=27)
    cluster = store(text + asking("a", "10.244.0.40") + asking("b", "10.244.0.70"))
    assert ranges(cluster)["worker"] == ["10.244.0.32/27"]
    assert [(node_of(cluster, name), addresses(cluster, name)) for name in "ab"] == [
        ("worker", ("10.244.0.40",)),
        ("worker2", ("10.244.0.70",)),
    ]
    cluster = applied(cluster, asking("c", "10.244.0.41"))
    assert (node_of(cluster, "c"), addresses(cluster, "c")) == ("worker", ("10.244.0.41",))


def test_a_requested_address_waits_for_a_node_with_its_range() -> None:
    """The pod is Pending, and is scheduled when a node gets the range from another pool."""
    text = cluster_of(2, "10.244.64.0/27", size=27)
    cluster = store(text + asking("a", "10.244.80.9"))
    scheduled = pod_named(cluster, "a").status.condition("PodScheduled")
    assert scheduled is not None
    assert "node(s) didn't have the requested pod address in their range" in scheduled.message
    wider = cluster_of(2, "10.244.64.0/27", "10.244.80.0/27", size=27).removesuffix("---\n")
    cluster = applied(cluster, wider)
    assert (node_of(cluster, "a"), addresses(cluster, "a")) == ("worker", ("10.244.80.9",))
