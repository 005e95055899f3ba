"""Nodes: settings from their own documents, pod ranges, and evictions by taints."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab import controllers
from kubenetlab.api.core import Event, Node
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.api.validate.node_ranges import free_ranges, overlapping
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.errors import ManifestError
from tests.clusters import (
    FAMILIES,
    NOW,
    applied,
    deployment,
    pod,
    pod_named,
    problems_of,
    running,
    settled,
    store,
)

NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: %s%s}\nspec: {%s}\n---\n"


def node(cluster: Cluster, name: str = "worker") -> Node:
    node = cluster.node(name)
    assert node is not None
    return node


def test_a_node_document_adds_settings_to_its_node() -> None:
    """Labels and annotations are merged, taints replaced; unset fields stay."""
    text = NODE % (
        "worker",
        ", labels: {zone: a}, annotations: {note: x}",
        "unschedulable: true",
    ) + NODE % (
        "control-plane",
        "",
        "taints: []",
    )
    cluster = store(text)
    worker = node(cluster)
    assert (
        worker.labels["zone"],
        worker.labels["kubernetes.io/hostname"],
        worker.metadata.annotations,
    ) == ("a", "worker", {"note": "x"})
    assert (worker.spec.unschedulable, [str(taint) for taint in worker.spec.taints]) == (
        True,
        ["{node.kubernetes.io/unschedulable: }"],
    )
    assert node(cluster, "control-plane").spec.taints == ()
    again = applied(cluster, NODE % ("worker", "", ""))
    assert (
        "zone" in node(again).labels,
        node(again).spec.unschedulable,
        node(again).spec.taints,
    ) == (False, False, ())
    assert node(again).addresses == worker.addresses


def test_a_node_can_request_its_pod_range() -> None:
    """Its own document or the Cluster document names the range; other nodes get free ranges."""
    cluster = store(NODE % ("worker", "", "podCIDR: 10.244.0.0/24"))
    assert [node.spec.pod_cidr for node in cluster.all(Node)] == [
        "10.244.1.0/24",
        "10.244.0.0/24",
        "10.244.2.0/24",
    ]
    config = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker, podCIDRs: "
        "[10.244.8.0/22]}]\nnetworking: {nodeCIDRMaskSizeIPv4: 26}\n"
    )
    assert [node.spec.pod_cidr for node in store(config).all(Node)] == [
        "10.244.0.0/26",
        "10.244.8.0/22",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_has_an_address_and_a_range_of_each_family(family: str) -> None:
    """They are in the order of the cluster's families and unique."""
    nodes = store(FAMILIES[family]).all(Node)
    versions = {"ipv4": [4], "ipv6": [6], "dual": [4, 6]}[family]
    for node in nodes:
        assert [6 if ":" in address else 4 for address in node.addresses] == versions
        assert [6 if ":" in cidr else 4 for cidr in node.spec.pod_cidrs] == versions
    assert len({address for node in nodes for address in node.addresses}) == len(nodes) * len(
        versions
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NODE % ("elsewhere", "", ""), 'no node of this cluster is called "elsewhere"'),
        (
            NODE % ("worker", "", "podCIDR: 10.244.9.0/24"),
            "spec.podCIDR: cannot change while the lab is up; it is 10.244.1.0/24",
        ),
        (
            (
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
                "nodes: [{role: control-plane}, {role: worker, podCIDRs: "
                "[10.244.9.0/24]}, {role: worker}]\n"
            ),
            "nodes[1].podCIDRs: cannot change while the lab is up; it is 10.244.1.0/24",
        ),
        (
            (
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
                "nodes: [{role: control-plane}, {role: worker}, {role: worker}, {role: "
                "worker, podCIDRs: [10.244.1.0/25]}]\n"
            ),
            "nodes[3].podCIDRs: 10.244.1.0/25 overlaps 10.244.1.0/24 of node worker",
        ),
        (
            NODE
            % ("worker", "", "taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}]"),
            "taints must be unique",
        ),
        (
            NODE % ("worker", "", "taints: [{key: 'a b', effect: NoExecute}]"),
            "expected a name of at most 63",
        ),
        (NODE % ("worker", "", "podCIDR: nonsense"), "expected a range such as"),
    ],
)
def test_invalid_node_documents_are_rejected_with_the_reason(text: str, message: str) -> None:
    """Unknown nodes, ranges in use, and invalid taints."""
    with pytest.raises(ManifestError) as caught:
        applied(store(), text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            NODE % ("worker", "", "podCIDR: 10.9.0.0/24"),
            "spec.podCIDR: expected a part of the pods' range 10.244.0.0/16, found 10.9.0.0/24",
        ),
        (
            NODE % ("worker", "", "podCIDR: 10.244.0.0/32"),
            "spec.podCIDR: expected room for pods, at least a /30",
        ),
        (
            NODE % ("worker", "", "podCIDR: 'fd00::/64'"),
            "spec.podCIDR: expected one IPv4 range, found fd00::/64",
        ),
        (
            NODE % ("worker", "", "podCIDR: 10.244.0.0/16"),
            "10.244.0.0/16 has room for 0 more ranges of /24, but 2 nodes need one",
        ),
        (
            NODE % ("worker", "", "podCIDR: 10.244.8.0/24")
            + NODE % ("worker2", "", "podCIDR: 10.244.8.0/25"),
            "spec.podCIDR: 10.244.8.0/25 overlaps 10.244.8.0/24 of node worker",
        ),
    ],
)
def test_invalid_ranges_are_rejected_before_the_start(text: str, message: str) -> None:
    """Outside, too small, of the wrong family, overlapping, or leaving none for other nodes."""
    with pytest.raises(ManifestError) as caught:
        store(text)
    assert message in str(caught.value)


RANGES = st.builds(
    lambda base, number, bits: ip_network(
        (int(ip_address(base)) + (number >> bits << bits), (128 if ":" in base else 32) - bits)
    ),
    st.sampled_from(["10.0.0.0", "fd00::"]),
    st.integers(0, 255),
    st.integers(0, 8),
)


@given(st.lists(RANGES, max_size=12))
def test_overlapping_ranges_are_found_as_by_comparing_all_pairs(ranges: list[Any]) -> None:
    """Each pair is found once, and free ranges overlap none."""
    pairs = {(i, j) for j in range(len(ranges)) for i in range(j) if _overlap(ranges[i], ranges[j])}
    result = [(min(pair), max(pair)) for pair in overlapping(ranges)]
    assert sorted(result) == sorted(pairs)
    whole = ip_network("10.0.0.0/24")
    taken = [part for part in ranges if part.version == 4]
    assert list(free_ranges(whole, 28, taken)) == [
        part for part in whole.subnets(new_prefix=28) if not any(map(part.overlaps, taken))
    ]


def _overlap(a: Any, b: Any) -> bool:
    return a.version == b.version and bool(a.overlaps(b))


def test_settings_of_a_node_are_deleted_with_it() -> None:
    """A node that is removed and added again has its initial settings."""
    config = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}%s]\n---\n"
    )
    cluster = store(config % ", {role: worker}" + NODE % ("worker", "", "unschedulable: true"))
    assert node(cluster).spec.unschedulable
    without = applied(cluster, config % "")
    assert without.node("worker") is None
    assert not node(applied(without, config % ", {role: worker}")).spec.unschedulable


TAINTED = NODE % ("worker", "", "taints: [{key: ill, effect: NoExecute}]")


def on_worker(name: str, tolerations: str = "[]") -> str:
    return pod(name, f", nodeName: worker, tolerations: {tolerations}")


def test_a_no_execute_taint_evicts_pods_that_do_not_tolerate_it() -> None:
    """At once, after tolerationSeconds, or never, with an event; Deployments replace the pod."""
    text = (
        on_worker("goes")
        + on_worker(
            "later", "[{key: ill, operator: Exists, effect: NoExecute, tolerationSeconds: 60}]"
        )
        + on_worker("stays", "[{key: ill, operator: Exists}]")
        + deployment(replicas=4)
    )
    cluster = running(store(text))
    before = {pod.name for pod in cluster.all(Pod) if pod.spec.node_name == "worker"}
    cluster = applied(cluster, TAINTED, now=NOW + 10)
    assert pod_named(cluster, "goes").is_terminating
    assert {
        pod_.name
        for pod_ in cluster.pods_on("worker")
        if pod_.namespace == "default" and not pod_.is_terminating
    } == {
        "later",
        "stays",
    }
    assert len(before) > 3
    replaced = [
        pod_
        for pod_ in cluster.all(Pod)
        if pod_.labels.get("app") == "web" and not pod_.is_terminating
    ]
    assert len(replaced) == 4
    assert all(pod_.spec.node_name != "worker" for pod_ in replaced)
    assert any(
        event.reason == "TaintManagerEviction"
        and event.message == "Marking for deletion Pod default/goes"
        for event in cluster.all(Event)
    )
    _, states = controllers.run(cluster, ControllerStates(), NOW + 30)
    assert states.wake_at == NOW + 70
    assert not pod_named(settled(cluster, NOW + 69), "later").is_terminating
    after = settled(cluster, NOW + 70)
    assert pod_named(after, "later").is_terminating
    assert not pod_named(after, "stays").is_terminating


def test_a_taint_removed_before_toleration_seconds_evicts_no_pod() -> None:
    """The pod stays."""
    cluster = running(
        store(
            on_worker(
                "later", "[{key: ill, operator: Exists, effect: NoExecute, tolerationSeconds: 60}]"
            )
        )
    )
    cluster = applied(
        applied(cluster, TAINTED, now=NOW + 10), NODE % ("worker", "", ""), now=NOW + 20
    )
    assert not pod_named(settled(cluster, NOW + 1000), "later").is_terminating


def test_the_first_matching_toleration_counts() -> None:
    """As in Kubernetes, a later one with less time is ignored."""
    tolerations = (
        "[{key: ill, operator: Exists, tolerationSeconds: 60, effect: "
        "NoExecute}, {operator: Exists, tolerationSeconds: 5, effect: "
        "NoExecute}]"
    )
    cluster = applied(running(store(on_worker("later", tolerations))), TAINTED, now=NOW + 10)
    assert not pod_named(settled(cluster, NOW + 60), "later").is_terminating
    assert pod_named(settled(cluster, NOW + 70), "later").is_terminating


@pytest.mark.parametrize(
    ("first", "second", "is_taken"),
    [
        ("", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "::", False),
        ("::1", "0.0.0.0", False),
        ("", "::1", True),
    ],
)
def test_a_published_port_belongs_to_one_node(first: str, second: str, is_taken: bool) -> None:
    """As with sockets, a wildcard address takes the port on every address."""
    mappings = ", ".join(
        f'{{containerPort: 30080, hostPort: 80, listenAddress: "{address}"}}'
        for address in (first, second)
    )
    node = f"nodes: [{{role: control-plane, extraPortMappings: [{mappings}]}}]\n"
    problems = problems_of(
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: dual}}\n{node}"
    )
    taken = (
        "nodes[0].extraPortMappings[1].hostPort",
        "TCP port 80 is already taken by nodes[0].extraPortMappings[0]",
    )
    assert [(problem.path, problem.message) for problem in problems] == [taken] * is_taken


def test_an_unknown_listen_address_is_reported() -> None:
    """It does no harm, as in a cluster."""
    mapping = '{containerPort: 30080, listenAddress: "::1"}'
    text = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane, extraPortMappings: [{mapping}]}}]\n"
    )
    (problem,) = problems_of(text)
    assert problem.is_warning
    assert "::1 is IPv6, which this cluster does not have: port not opened" in problem.message
