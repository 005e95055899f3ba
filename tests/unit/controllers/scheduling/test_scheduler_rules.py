"""The scheduler against a second implementation of its filters, with random nodes and pods.

The filters are written here a second time, simply and slowly, from the documentation and the
plugins' sources: labels that a node must have, pods that must run beside it, and even spreading.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.containers import Container
from kubenetlab.api.core import Event, Namespace, Node
from kubenetlab.api.meta import ObjectMeta, OwnerReference
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.scheduling import scheduler
from tests.clusters import NOW
from tests.examples import examples
from tests.unit.controllers.scheduling.random_pods import FEATURES, SPACES, RandomCluster
from tests.unit.controllers.scheduling.scheduler_reference import ReferenceCluster

EXAMPLES = 300
"""Few of the rules meet in a cluster made by chance, but one is quickly made."""


def scheduled(cluster: Cluster) -> Cluster:
    """Return the store when the scheduler has nothing more to do."""
    while (after := cluster.with_changes(scheduler.reconcile(cluster, NOW))) is not cluster:
        cluster = after
    return cluster


@pytest.mark.parametrize(
    "features", [*((feature,) for feature in FEATURES), ("nodes", "spread"), FEATURES], ids="-".join
)
@settings(max_examples=examples(EXAMPLES))
@given(random=st.randoms(use_true_random=True))
def test_pods_are_bound_only_where_the_reference_allows(
    features: tuple[str, ...], random: Random
) -> None:
    """Every pod that fits a node is bound; the others wait as in the reference, with an event."""
    namespaces = [
        Namespace(ObjectMeta(name=name, labels=labels)) for name, labels in SPACES.items()
    ]
    chance = RandomCluster(random, features)
    cluster = Cluster().with_changes([*namespaces, *chance.nodes(), *chance.pods()])
    after = scheduled(cluster)
    world = ReferenceCluster(cluster.all(Node))
    by_name = {node.name: node for node in world.nodes}
    world.places = [
        (pod, by_name[pod.spec.node_name])
        for pod in cluster.all(Pod)
        if pod.spec.node_name in by_name
    ]
    waiting = [pod for pod in cluster.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    is_progress = True
    while is_progress:
        is_progress = False
        for pod in list(waiting):
            fitting = [node.name for node in world.nodes if world.fits(pod, node)]
            chosen = after.get(Pod, pod.namespace, pod.name).spec.node_name  # type: ignore[union-attr]
            assert bool(fitting) <= (chosen in fitting), (
                f"{pod.name} is on {chosen or 'no node'}, and fits on {fitting}"
            )
            if fitting:
                world.places.append((pod, by_name[chosen]))
                waiting.remove(pod)
                is_progress = True
    unbound = [pod for pod in after.all(Pod) if not pod.spec.node_name and not pod.is_terminating]
    assert [pod.name for pod in unbound] == [pod.name for pod in waiting]
    for pod in unbound:
        condition = pod.status.condition("PodScheduled")
        assert condition is not None
        assert condition.message.startswith(f"0/{len(world.nodes)} nodes are available: ")
        assert any(
            event.involved_object.name == pod.name and event.reason == "FailedScheduling"
            for event in after.all(Event)
        )


@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_pods_without_constraints_are_spread_evenly(count: int, replicas: list[int]) -> None:
    """Per owner the nodes differ by at most one pod, and no node is left empty."""
    nodes = [Node(ObjectMeta(name=f"n{number}")) for number in range(count)]
    pods = [
        Pod(
            ObjectMeta(
                name=f"{owner}-{number}",
                namespace="default",
                owner_references=(OwnerReference("v1", "X", "x", str(owner), True),),
            ),
            PodSpec((Container("m", "i"),)),
        )
        for owner, size in enumerate(replicas)
        for number in range(size)
    ]
    after = scheduled(Cluster().with_changes([*nodes, *pods]))
    for owner in range(len(replicas)):
        counts = Counter({node.name: 0 for node in nodes})
        counts.update(
            pod.spec.node_name for pod in after.all(Pod) if pod.name.startswith(f"{owner}-")
        )
        assert max(counts.values()) - min(counts.values()) <= 1
    assert len({pod.spec.node_name for pod in after.all(Pod)}) == min(count, len(pods))
