"""Pod addresses against a model, while pods are created and deleted in random order.

Each node has a range of eight addresses, five of them for pods, so that it is soon exhausted.
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
from kubenetlab.api.lab import Attachment, PodRuntimeStatus
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.plugins.allocations import HostLocalState
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.allocation.addresses import cluster_ip_for, pod_numbers_after
from kubenetlab.controllers.support.termination import deletion_changes
from tests.clusters import NOW, observed, settled, store
from tests.examples import examples

RANGES = {"a": "10.244.7.0/29", "b": "10.244.9.8/29"}
STEPS = 12
CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: a}, {role: worker, name: b}]
"""


def with_small_ranges(cluster: Cluster) -> Cluster:
    """Return a store in which two nodes have the small ranges and no pod has run on them."""
    nodes = [
        structs.replace(
            node,
            spec=structs.replace(
                node.spec, pod_cidr=RANGES[node.name], pod_cidrs=(RANGES[node.name],)
            ),
        )
        for node in cluster.all(Node)
        if node.name in RANGES
    ]
    pods = [
        structs.replace(pod, spec=structs.replace(pod.spec, node_name="control-plane"))
        for pod in cluster.all(Pod)
    ]
    given = [deletion(attachment) for attachment in cluster.all(Attachment)]
    return settled(cluster.with_changes([*nodes, *pods, *given, HostLocalState()]))


START = with_small_ranges(store(CLUSTER))


class AddressModel:
    """Model of two nodes and their pods: the next free address after the last one is assigned."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.cluster = START
        self.number = 0
        self.addresses: dict[str, str] = {}
        self.waiting: dict[str, list[str]] = {name: [] for name in RANGES}
        self.last = dict.fromkeys(RANGES, "")

    def own_pods(self) -> list[Pod]:
        return [pod for pod in self.cluster.all(Pod) if pod.namespace == "default"]

    def create_pods(self) -> None:
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

    def delete_pods(self) -> None:
        pods = self.own_pods()
        for pod in self.random.sample(pods, min(len(pods), self.random.randint(1, 3))):
            self.cluster = self.cluster.with_changes(
                [structs.replace(observed(pod), is_detached=True), *deletion_changes(pod, NOW)]
            )
            self.addresses.pop(pod.name, None)
            for names in self.waiting.values():
                if pod.name in names:
                    names.remove(pod.name)

    def report_running(self) -> None:
        reports = [
            observed(pod)
            for pod in self.own_pods()
            if pod.name in self.addresses and not pod.is_terminating
        ]
        self.cluster = self.cluster.with_changes(reports)

    def settle(self) -> None:
        """Run the controllers and assign addresses in the model.

        A released address goes to a pod that still waits after the first pass.
        """
        before = self.cluster
        self.cluster = settled(self.cluster)
        assert controllers.settle(self.cluster, NOW) is self.cluster
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


@settings(max_examples=examples(40))
@given(random=st.randoms(use_true_random=True))
def test_addresses_follow_the_model(random: Random) -> None:
    """They are unique, assigned cyclically and kept for life; a waiting pod gets the next one."""
    model = AddressModel(random)
    for _ in range(STEPS):
        random.choice(
            [model.create_pods, model.create_pods, model.delete_pods, model.report_running]
        )()
        model.settle()
        attachments = {
            attachment.name: attachment
            for attachment in model.cluster.all(Attachment)
            if attachment.namespace == "default"
        }
        assert {name: attachment.addresses for name, attachment in attachments.items()} == {
            name: (address,) for name, address in model.addresses.items()
        }
        everyone = [
            address for attachment in attachments.values() for address in attachment.addresses
        ]
        assert len(everyone) == len(set(everyone))
        links = [
            (attachment.node, attachment.host_ifname)
            for attachment in model.cluster.all(Attachment)
        ]
        assert len(links) == len(set(links))
        for attachment in attachments.values():
            network = ip_network(RANGES[attachment.node])
            assert ip_address(attachment.addresses[0]) in list(network.hosts())[1:]
        reported = {
            event.involved_object.name
            for event in model.cluster.all(Event)
            if event.reason == "FailedCreatePodSandBox"
        }
        assert {name for names in model.waiting.values() for name in names} <= reported
        assert all(
            not runtime.containers
            or runtime.name in model.addresses
            or runtime.namespace != "default"
            for runtime in model.cluster.all(PodRuntimeStatus)
        )


@given(st.integers(24, 29), st.integers(0, 300))
def test_every_address_of_a_range_is_tried_once(prefix: int, last: int) -> None:
    """All but the network's, the gateway's and the broadcast address, wherever the cycle starts."""
    network = ip_network(f"10.1.2.0/{prefix}")
    usable = {str(address) for address in list(network.hosts())[1:]}
    latest = str(network[last]) if 2 <= last < network.num_addresses - 1 else ""
    addresses = [
        str(network[number])
        for number in pod_numbers_after(network, latest, 2, network.num_addresses - 1)
    ]
    assert sorted(addresses) == sorted(usable)
    assert latest == "" or addresses[-1] == latest


@pytest.mark.parametrize("prefix", range(24, 30))
def test_cluster_ips_are_unique(prefix: int) -> None:
    """Above the static band first, then from the band, except the first and the last; then none."""
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


def test_the_nodes_have_the_ranges_of_this_module() -> None:
    """The ranges of this file are the nodes'."""
    nodes = {node.name: node.spec.pod_cidrs for node in START.all(Node)}
    assert {name: nodes[name] for name in RANGES} == {
        name: (cidr,) for name, cidr in RANGES.items()
    }
