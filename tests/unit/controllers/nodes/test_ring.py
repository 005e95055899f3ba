"""Weave's IPAM: parts of one range that move between nodes as these come, need more, and go."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.core import Event, Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.plugins.allocations import RingState
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.nodes.ipam.ring import Ring
from tests.clusters import applied, pod, settled, store, without_pod
from tests.examples import examples


def cluster_of(nodes: int, subnet: str = "10.32.0.0/28") -> str:
    workers = ", {role: worker}" * (nodes - 1)
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane}}{workers}]\n"
        f"networking: {{cni: weave, podSubnet: '{subnet}', nodeCIDRMaskSizeIPv4: 30}}\n---\n"
    )


def on(node: str) -> str:
    return f", nodeName: {node}"


def ranges(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    return {node.name: Ring.ranges(cluster, node)[0].cidrs for node in cluster.all(Node)}


def used(cluster: Cluster) -> list[str]:
    (state,) = cluster.all(RingState)
    pods = [address for entry in cluster.all(Attachment) for address in entry.addresses]
    return [*pods, *state.addresses.values()]


def test_the_range_is_weaves_own_by_default_and_divided_evenly() -> None:
    """Each node has an address for its bridge; pods have addresses of their node's part."""
    cluster = store(
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: weave}\n"
        "nodes: [{role: control-plane}, {role: worker}]\n---\n" + pod("a", on("worker"))
    )
    assert cluster.config.networking.pod_subnet == "10.32.0.0/12"
    assert ranges(cluster) == {"control-plane": ("10.32.0.0/13",), "worker": ("10.40.0.0/13",)}
    (state,) = cluster.all(RingState)
    assert state.addresses == {"control-plane": "10.32.0.1", "worker": "10.40.0.0"}
    attachment = cluster.get(Attachment, "default", "a")
    assert attachment is not None
    assert ip_address(attachment.addresses[0]) in ip_network("10.40.0.0/13")


def test_a_node_that_needs_more_gets_half_of_a_free_part() -> None:
    """Fourteen addresses can be used on one node, although it had half of them."""
    pods = "".join(pod(f"p{number}", on("worker")) for number in range(10))
    cluster = store(cluster_of(2) + pods)
    own = [ip_network(cidr) for cidr in ranges(cluster)["worker"]]
    assert sum(network.num_addresses for network in own) > 8
    assert len(used(cluster)) == len(set(used(cluster))) == 14
    full = applied(cluster, pod("late", on("worker")))
    assert full.get(Attachment, "default", "late") is None
    assert any(
        "no free address is left in 10.32.0.0/28" in event.message for event in full.all(Event)
    )


def test_released_addresses_are_reused_last() -> None:
    """A connection to a pod that is gone reaches no other pod, until the range is used up."""
    cluster = store(cluster_of(2) + pod("a", on("worker")))
    released = {address_of(cluster, "a")}
    for number in range(4):
        cluster = without_pod(cluster, f"p{number - 1}" if number else "a")
        cluster = applied(cluster, pod(f"p{number}", on("worker")))
        address = address_of(cluster, f"p{number}")
        assert address
        assert address not in released
        released.add(address)


def test_an_exhausted_range_serves_again_after_a_release() -> None:
    """The pod that waits gets the address of the one that is gone, on whatever node that was."""
    pods = "".join(pod(f"p{number}", on("worker")) for number in range(10))
    cluster = applied(store(cluster_of(2) + pods), pod("late", on("control-plane")))
    assert address_of(cluster, "late") == ""
    freed = address_of(cluster, "p3")
    cluster = without_pod(cluster, "p3")
    assert address_of(cluster, "late") == freed


def address_of(cluster: Cluster, name: str) -> str:
    attachment = cluster.get(Attachment, "default", name)
    return attachment.addresses[0] if attachment is not None else ""


def test_parts_of_a_removed_node_go_to_others() -> None:
    cluster = store(cluster_of(3))
    assert set(ranges(cluster)) == {"control-plane", "worker", "worker2"}
    cluster = applied(cluster, cluster_of(2))
    sizes = [ip_network(cidr).num_addresses for cidrs in ranges(cluster).values() for cidr in cidrs]
    assert sum(sizes) == 16
    assert set(ranges(cluster)) == {"control-plane", "worker"}
    grown = applied(cluster, cluster_of(4))
    assert all(ranges(grown).values())


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32))
def test_parts_always_cover_the_range_once(seed: int) -> None:
    """Pods and nodes come and go in random order."""
    random = Random(seed)
    nodes = 2
    cluster = store(cluster_of(nodes))
    for number in range(14):
        names = [node.name for node in cluster.all(Node)]
        match random.choice(("pod", "pod", "delete", "nodes")):
            case "pod":
                cluster = applied(cluster, pod(f"p{number}", on(random.choice(names))))
            case "delete" if entries := cluster.all(Attachment):
                entry = random.choice(entries)
                gone = [
                    obj for obj in cluster.select(entry.namespace, {}) if obj.name == entry.name
                ]
                cluster = settled(cluster.with_changes(map(deletion, [entry, *gone])))
            case _:
                nodes = random.randint(1, 4)
                cluster = applied(cluster, cluster_of(nodes))
        networks = [ip_network(cidr) for cidrs in ranges(cluster).values() for cidr in cidrs]
        assert sum(network.num_addresses for network in networks) == 16
        assert len({network.network_address for network in networks}) == len(networks)
        assert len(used(cluster)) == len(set(used(cluster)))
        assert not {"10.32.0.0", "10.32.0.15"} & set(used(cluster))
