"""Pod addresses: requested addresses, pools, and exhausted ranges."""

from __future__ import annotations

import pytest

from kubenetlab.api.core import Event
from kubenetlab.api.lab import Attachment
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.lab.agent.status_reports import detached
from tests.clusters import (
    DUAL,
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

POOLS = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}]
networking:
  ipFamily: %s
  ipam:
    pools:
    - {name: shop, namespaces: [shop], first: 100, last: 103}
    - {name: edge, nodes: [worker], namespaces: [edge], first: 10, last: 19}
    - {name: spare, first: 200, last: 201}
---
"""


def addresses(cluster: Cluster, name: str, namespace: str = "default") -> tuple[str, ...]:
    attachment = cluster.get(Attachment, namespace, name)
    return attachment.addresses if attachment is not None else ()


def event_messages(cluster: Cluster, name: str) -> list[str]:
    return [
        event.message
        for event in cluster.all(Event)
        if event.involved_object.name == name and event.reason == "FailedCreatePodSandBox"
    ]


def at(address: str) -> str:
    return f', annotations: {{kubenetlab.dev/addresses: "{address}"}}'


def test_a_pod_gets_the_address_it_requests() -> None:
    """It runs on the node with that range; after its deletion another pod may have the address."""
    cluster = store(pod("a", meta=at("10.244.2.77")))
    assert (addresses(cluster, "a"), pod_named(cluster, "a").spec.node_name) == (
        ("10.244.2.77",),
        "worker2",
    )
    cluster = running(cluster)
    cluster = settled(cluster.with_changes(deletion_changes(pod_named(cluster, "a"), NOW)))
    cluster = settled(cluster.with_changes(detached(cluster, pod_named(cluster, "a"))))
    assert addresses(cluster, "a") == ()
    assert addresses(applied(cluster, pod("b", meta=at("10.244.2.77"))), "b") == ("10.244.2.77",)


def test_a_request_must_name_an_address_of_each_family() -> None:
    """The order does not matter; a request for one family is rejected."""
    cluster = store(
        DUAL
        + pod("a", meta=at("fd00:10:244:1::77, 10.244.1.77"))
        + pod("b", ", nodeName: worker", meta=at("10.244.1.78"))
    )
    assert addresses(cluster, "a") == ("10.244.1.77", "fd00:10:244:1::77")
    assert event_messages(cluster, "b") == [
        (
            'Failed to create pod sandbox: plugin type="bridge" failed (add): '
            "the pod asks for 10.244.1.78, and for no IPv6 address"
        )
    ]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "10.244.1.1",
            (
                "requested address 10.244.1.1 is not one of 10.244.1.2-10.244.1.254, "
                "the pods' on node worker"
            ),
        ),
        (
            "10.244.2.7",
            (
                "requested address 10.244.2.7 is not one of 10.244.1.2-10.244.1.254, "
                "the pods' on node worker"
            ),
        ),
        ("10.244.1.9", "requested address 10.244.1.9 is in use by pod default/a"),
    ],
)
def test_an_unavailable_address_is_reported(address: str, message: str) -> None:
    """The gateway's, another node's or another pod's; the pod gets it when it becomes free."""
    cluster = store(
        pod("a", ", nodeName: worker", meta=at("10.244.1.9"))
        + pod("b", ", nodeName: worker", meta=at(address))
    )
    assert addresses(cluster, "b") == ()
    assert event_messages(cluster, "b")[0].endswith(message)
    assert pod_named(cluster, "b").status.phase == "Pending"


def test_no_node_is_feasible_for_an_address_outside_all_ranges() -> None:
    """The event has the form of the scheduler's messages."""
    cluster = store(pod("a", meta=at("10.99.0.1")))
    scheduled = pod_named(cluster, "a").status.condition("PodScheduled")
    assert scheduled is not None
    assert "2 node(s) didn't have the requested pod address in their range" in scheduled.message
    assert [problem.message for problem in problems_of(pod("a", meta=at("nonsense")))] == [
        'expected IP addresses, found "nonsense"'
    ]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("ipv4", ("10.244.1.100",)),
        ("ipv6", ("fd00:10:244:1::64",)),
        ("dual", ("10.244.1.100", "fd00:10:244:1::64")),
    ],
)
def test_a_pool_serves_its_namespace(family: str, expected: tuple[str, ...]) -> None:
    """Only the namespace's pods take addresses from it, and pools do not overlap."""
    cluster = store(
        POOLS % family
        + pod("a", meta=", namespace: shop")
        + pod("b", meta=", namespace: edge")
        + pod("c")
    )
    assert addresses(cluster, "a", "shop") == expected
    numbers = [
        int(
            addresses(cluster, name, namespace)[0].rpartition(":" if family == "ipv6" else ".")[2],
            16 if family == "ipv6" else 10,
        )
        for name, namespace in (("b", "edge"), ("c", "default"))
    ]
    assert 10 <= numbers[0] <= 19
    assert not 10 <= numbers[1] <= 19


def test_addresses_of_a_pool_are_reserved() -> None:
    """With more pods than other addresses, the pods left over get an event and no address."""
    small = (
        POOLS.replace("  ipFamily: %s\n", "  nodeCIDRMaskSizeIPv4: 27\n")
        .replace("first: 100, last: 103", "first: 20, last: 23")
        .replace("first: 200, last: 201", "first: 28, last: 29")
    )
    cluster = store(
        small.replace(
            "nodes: [{role: control-plane}, {role: worker}]", "nodes: [{role: control-plane}]"
        ).replace("nodes: [worker]", "nodes: [control-plane]")
        + deployment(replicas=20)
    )
    numbers = sorted(
        int(attachment.addresses[0].rpartition(".")[2]) for attachment in cluster.all(Attachment)
    )
    assert numbers == [2, 3, 4, 5, 6, 7, 8, 9, 24, 25, 26, 27, 30]
    waiting = [
        pod_
        for pod_ in cluster.all(Pod)
        if pod_.labels.get("app") == "web" and cluster.get(Attachment, "default", pod_.name) is None
    ]
    assert len(waiting) == 20 + 2 - 13
    assert event_messages(cluster, waiting[0].name)[0].endswith(
        "no IP addresses available in range set: 10.244.0.1-10.244.0.30"
    )


def test_an_exhausted_pool_serves_again_after_a_release() -> None:
    """Four addresses, five pods: the fifth pod gets the address that is released."""
    five = "".join(pod(name, ", nodeName: worker", meta=", namespace: shop") for name in "abcde")
    cluster = running(store(POOLS % "ipv4" + five))
    assert addresses(cluster, "e", "shop") == ()
    assert event_messages(cluster, "e")[0].endswith(
        "no IP addresses available in range set: 10.244.1.100-10.244.1.103"
    )
    freed = addresses(cluster, "b", "shop")
    cluster = settled(
        cluster.with_changes(
            [
                change
                for name in "b"
                for change in deletion_changes(pod_named(cluster, name, "shop"), NOW)
            ]
        )
    )
    pods = cluster.all(Pod)
    assert any(pod_.is_terminating for pod_ in pods)
    cluster = settled(cluster.with_changes(detached(cluster, pod_named(cluster, "b", "shop"))))
    assert addresses(cluster, "e", "shop") == freed


def test_a_pod_can_name_its_pool() -> None:
    """The annotation works in any namespace; an unknown pool is reported with the known ones."""
    cluster = store(
        POOLS % "ipv4"
        + pod("a", ", nodeName: worker", meta=", annotations: {kubenetlab.dev/pool: spare}")
        + pod("b", ", nodeName: control-plane", meta=", annotations: {kubenetlab.dev/pool: edge}")
    )
    assert addresses(cluster, "a") == ("10.244.1.200",)
    assert event_messages(cluster, "b")[0].endswith(
        'node control-plane has no address pool "edge"; it has: shop, spare'
    )


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ("[{name: a, first: 10, last: 9}]", "expected at least 10, where the pool begins, found 9"),
        (
            "[{name: a, first: 10, last: 255}]",
            "expected at most 254, the last number in a node's range, found 255",
        ),
        ("[{name: a, first: 1, last: 9}]", "expected the number of an address in a node's range"),
        ("[{name: a, first: 2, last: 9, nodes: [nobody]}]", 'there is no node "nobody"'),
        (
            "[{name: a, first: 2, last: 9}, {name: b, first: 9, last: 12}]",
            "9 to 12 overlaps pool a (2 to 9)",
        ),
        (
            "[{name: a, first: 2, last: 9}, {name: a, first: 19, last: 22}]",
            '"a" is already the name of another pool',
        ),
    ],
)
def test_invalid_pools_are_rejected(pools: str, message: str) -> None:
    """Empty, outside the range, on unknown nodes, overlapping, or with equal names."""
    problems = problems_of(
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipam: {{pools: {pools}}}}}\n"
    )
    assert any(message in problem.message for problem in problems), [
        problem.message for problem in problems
    ]
