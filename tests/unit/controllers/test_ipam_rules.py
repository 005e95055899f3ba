"""Addresses against their rules, while pods come and go: whatever happens, in whatever order.

Each node has a range of eight addresses, of which pods get five: so that it is soon gone round, and full.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.containers import Container
from kubenetlab.api.core import Event, Node
from kubenetlab.api.lab import AllocationState, Attachment, PodRuntimeStatus
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.addresses import cluster_ip_for, pod_addresses_after
from kubenetlab.controllers.termination import terminated
from tests.clusters import NOW, observed, settled, store

RANGES = {"a": "10.244.7.0/29", "b": "10.244.9.8/29"}
STEPS = 12
CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: a}, {role: worker, name: b}]
"""


def with_small_ranges(cluster: Cluster) -> Cluster:
    """The store with the ranges of this file; the cluster's own pods are on another node, and nobody has had an address on these two."""
    nodes = [structs.replace(node, spec=structs.replace(node.spec, pod_cidr=RANGES[node.name], pod_cidrs=(RANGES[node.name],)))
             for node in cluster.all(Node) if node.name in RANGES]  # fmt: skip
    pods = [
        structs.replace(pod, spec=structs.replace(pod.spec, node_name="control-plane"))
        for pod in cluster.all(Pod)
    ]
    given = [deletion(attachment) for attachment in cluster.all(Attachment)]
    return settled(cluster.with_changes([*nodes, *pods, *given, AllocationState()]))


START = with_small_ranges(store(CLUSTER))


class Story:
    """Pods that come and go on two nodes, and which address each has to get: the next free one behind the last given out."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.cluster = START
        self.number = 0
        self.addresses: dict[str, str] = {}
        self.waiting: dict[str, list[str]] = {name: [] for name in RANGES}
        self.last = dict.fromkeys(RANGES, "")

    def mine(self) -> list[Pod]:
        return [pod for pod in self.cluster.all(Pod) if pod.namespace == "default"]

    def come(self) -> None:
        node = self.random.choice(sorted(RANGES))
        new = []
        for _ in range(self.random.randint(1, 3)):
            self.number += 1
            name = f"p{self.number}"
            is_on_host = self.random.random() < 0.1
            new.append(
                Pod(
                    ObjectMeta(name, "default", uid=name),
                    PodSpec((Container("m", "i"),), node_name=node, host_network=is_on_host),
                )
            )
            if not is_on_host:
                self.waiting[node].append(name)
        self.cluster = self.cluster.with_changes(new)

    def go(self) -> None:
        found = self.mine()
        for pod in self.random.sample(found, min(len(found), self.random.randint(1, 3))):
            self.cluster = self.cluster.with_changes(
                [structs.replace(observed(pod), is_detached=True), *terminated(pod, NOW)]
            )
            self.addresses.pop(pod.name, None)
            for names in self.waiting.values():
                if pod.name in names:
                    names.remove(pod.name)

    def start(self) -> None:
        reports = [
            observed(pod)
            for pod in self.mine()
            if pod.name in self.addresses and not pod.is_terminating
        ]
        self.cluster = self.cluster.with_changes(reports)

    def settle(self) -> None:
        """What is freed in a round of the controllers is free for who still waits in the next."""
        before = self.cluster
        self.cluster = settled(self.cluster)
        assert controllers.run(self.cluster, NOW)[0] is self.cluster
        taken = {attachment.addresses[0] for attachment in before.all(Attachment)}
        for held in (taken, set(self.addresses.values())):
            for node, names in self.waiting.items():
                for name in list(names):
                    address = self.next_free(node, held | set(self.addresses.values()))
                    if address:
                        self.addresses[name] = self.last[node] = address
                        names.remove(name)

    def next_free(self, node: str, taken: set[str]) -> str:
        usable = [str(address) for address in list(ip_network(RANGES[node]).hosts())[1:]]
        first = usable.index(self.last[node]) + 1 if self.last[node] else 0
        return next(
            (address for address in usable[first:] + usable[:first] if address not in taken), ""
        )


@settings(max_examples=40)
@given(random=st.randoms(use_true_random=True))
def test_addresses_are_given_as_the_rules_say(random: Random) -> None:
    """Inside the node's range, each once, round and round, kept for life; who gets none is told, and gets the next that is freed."""
    story = Story(random)
    for _ in range(STEPS):
        random.choice([story.come, story.come, story.go, story.start])()
        story.settle()
        attachments = {
            attachment.name: attachment
            for attachment in story.cluster.all(Attachment)
            if attachment.namespace == "default"
        }
        assert {name: attachment.addresses for name, attachment in attachments.items()} == {
            name: (address,) for name, address in story.addresses.items()
        }
        everyone = [
            address for attachment in attachments.values() for address in attachment.addresses
        ]
        assert len(everyone) == len(set(everyone))
        links = [
            (attachment.node, attachment.host_ifname)
            for attachment in story.cluster.all(Attachment)
        ]
        assert len(links) == len(set(links))
        for attachment in attachments.values():
            network = ip_network(RANGES[attachment.node])
            assert ip_address(attachment.addresses[0]) in list(network.hosts())[1:]
        told = {
            event.involved_object.name
            for event in story.cluster.all(Event)
            if event.reason == "FailedCreatePodSandBox"
        }
        assert {name for names in story.waiting.values() for name in names} <= told
        assert all(
            not seen.containers or seen.name in story.addresses or seen.namespace != "default"
            for seen in story.cluster.all(PodRuntimeStatus)
        )


@given(st.integers(24, 29), st.integers(0, 300))
def test_every_address_of_a_range_comes_once(prefix: int, last: int) -> None:
    """Whichever was given out last: all but the network's own, the gateway's and the broadcast address."""
    network = ip_network(f"10.1.2.0/{prefix}")
    usable = {str(address) for address in list(network.hosts())[1:]}
    latest = str(network[last]) if 2 <= last < network.num_addresses - 1 else ""
    found = [
        str(address)
        for address in pod_addresses_after(network, latest, 2, network.num_addresses - 1)
    ]
    assert sorted(found) == sorted(usable)
    assert latest == "" or found[-1] == latest


@pytest.mark.parametrize("prefix", range(24, 30))
def test_cluster_ips_are_given_once(prefix: int) -> None:
    """Above the static band while there is room, then from the band, each but the network's own and the last; then none."""
    network = ip_network(f"10.2.0.0/{prefix}")
    hosts = list(map(str, network.hosts()))
    band = min(max(16, network.num_addresses // 16), 256)
    taken: dict[str, None] = {}
    for number in range(len(hosts)):
        address = cluster_ip_for(network, f"default/web-{number}", taken)
        assert address is not None
        assert address not in taken
        assert (address in hosts[band:]) == (number < len(hosts[band:]))
        taken[address] = None
    assert set(taken) == set(hosts)
    assert cluster_ip_for(network, "default/late", taken) is None


def test_nodes_of_the_test_are_as_it_says() -> None:
    """The ranges of this file are the nodes'."""
    nodes = {node.name: node.spec.pod_cidrs for node in START.all(Node)}
    assert {name: nodes[name] for name in RANGES} == {
        name: (cidr,) for name, cidr in RANGES.items()
    }
