"""Rolling updates: limits of surge and unavailability, and termination."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.cli.objects.rollout import outstanding
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.controllers.workloads.rollout import RolloutShare, limits, new_share, old_shares
from tests.clusters import (
    NOW,
    applied,
    deployment,
    observed,
    problems_of,
    running,
    settled,
    store,
)


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (10, 3, "50%", (3, 5)),
        (2, 0, "25%", (0, 1)),
        (0, "25%", "25%", (0, 1)),
    ],
)
def test_percentages_become_numbers(
    replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]
) -> None:
    """Percentages are rounded up for maxSurge and down for maxUnavailable; one is at least 1."""
    assert limits(replicas, surge, unavailable) == expected


@given(
    replicas=st.integers(0, 12),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 5),
    old=st.lists(st.integers(0, 6), max_size=3),
    data=st.data(),
)
def test_a_rollout_keeps_its_limits_and_ends(
    replicas: int, surge: int, unavailable: int, old: list[int], data: st.DataObject
) -> None:
    """From any start and in any order of readiness, until only new pods are left."""
    surge, unavailable = limits(replicas, surge, unavailable)
    unavailable = min(unavailable, replicas) if replicas else unavailable
    new = RolloutShare(0)
    shares = [RolloutShare(count, count) for count in old]
    most = max(replicas + surge, sum(old))
    least = min(replicas - unavailable, sum(old))
    for _ in range(200):
        new_replicas = new_share(replicas, surge, new, shares)
        kept = old_shares(replicas, unavailable, new, shares)
        assert new_replicas + sum(kept) <= most
        shares = [
            RolloutShare(count, min(share.available, count))
            for share, count in zip(shares, kept, strict=True)
        ]
        new = RolloutShare(new_replicas, min(new.available, new_replicas))
        assert new.available + sum(share.available for share in shares) >= min(least, replicas)
        if (new.replicas, sum(kept)) == (replicas, 0):
            return
        if new.available < new.replicas:
            new = RolloutShare(
                new.replicas, data.draw(st.integers(new.available + 1, new.replicas))
            )
    raise AssertionError("it never ends")


def web(cluster: Cluster) -> list[Pod]:
    return [pod for pod in cluster.select("default", {"app": "web"}) if not pod.is_terminating]


def with_strategy(text: str, replicas: int = 4, image: str = "agnhost") -> str:
    return (
        deployment("web", replicas)
        .replace("  selector:", f"  strategy: {text}\n  selector:", 1)
        .replace("image: agnhost", f"image: {image}")
    )


def test_pods_are_replaced_a_few_at_a_time() -> None:
    """Four pods with maxSurge 1 and maxUnavailable 1; each step waits for ready pods."""
    cluster = running(store(deployment("web", 4)))
    counts = []
    cluster = applied(cluster, deployment("web", 4).replace("image: agnhost", "image: nginx"))
    for _ in range(10):
        images = [pod.spec.containers[0].image for pod in web(cluster)]
        counts.append((images.count("agnhost"), images.count("nginx")))
        if counts[-1] == (0, 4):
            break
        cluster = settled(
            cluster.with_changes(
                observed(pod) for pod in web(cluster) if not pod.is_ready and pod.spec.node_name
            )
        )
    assert counts == [(3, 2), (1, 4), (0, 4)]


def test_recreate_waits_until_the_old_pods_are_gone() -> None:
    """Old and new pods never exist side by side."""
    cluster = running(store(with_strategy("{type: Recreate}")))
    changed = applied(cluster, with_strategy("{type: Recreate}", image="nginx"))
    assert not web(changed)
    old = changed.select("default", {"app": "web"})
    assert [pod.is_terminating for pod in old] == [True] * 4
    after = settled(
        changed.with_changes(
            observed(pod).__class__(observed(pod).metadata, pod.uid, is_detached=True)
            for pod in old
        )
    )
    assert [pod.spec.containers[0].image for pod in web(after)] == ["nginx"] * 4


def test_a_paused_deployment_keeps_its_pods_template() -> None:
    """It can still be scaled."""
    cluster = running(store(deployment("web", 2)))
    paused = (
        deployment("web", 2)
        .replace("  selector:", "  paused: true\n  selector:", 1)
        .replace("image: agnhost", "image: nginx")
    )
    changed = applied(cluster, paused)
    assert [pod.spec.containers[0].image for pod in web(changed)] == ["agnhost"] * 2


def test_a_rollback_reuses_the_old_replica_set() -> None:
    """As with `kubectl rollout undo`, it gets the newest revision; the limit deletes empty ones."""
    cluster = running(store(deployment("web", 2)))
    first = cluster.all(ReplicaSet)[-1].name
    for image in ("nginx", "httpd", "agnhost"):
        cluster = applied(
            cluster, deployment("web", 2).replace("image: agnhost", f"image: {image}")
        )
        while any(not pod.is_ready for pod in web(cluster)):
            cluster = settled(
                cluster.with_changes(
                    observed(pod) for pod in web(cluster) if not pod.is_ready and pod.spec.node_name
                )
            )
    sets = {
        replica_set.name: replica_set
        for replica_set in cluster.all(ReplicaSet)
        if replica_set.name.startswith("web")
    }
    assert sets[first].metadata.annotations["deployment.kubernetes.io/revision"] == "4"
    assert (
        sum(replica_set.spec.replicas for replica_set in sets.values())
        == sets[first].spec.replicas
        == 2
    )
    owner = cluster.get(Deployment, "default", "web")
    assert owner is not None
    assert not settled(cluster.with_changes(deletion_changes(owner, NOW))).get(
        Deployment, "default", "web"
    )


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            "{type: Recreate, rollingUpdate: {maxSurge: 1}}",
            "may not be specified when strategy type is 'Recreate'",
        ),
        ("{rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}", "may not be 0 when maxSurge is 0"),
        (
            "{rollingUpdate: {maxSurge: lots}}",
            "expected a number of pods or a percentage such as 25%",
        ),
        ("{type: Blue}", "expected one of Recreate, RollingUpdate"),
    ],
)
def test_invalid_strategies_are_rejected(strategy: str, message: str) -> None:
    """The messages are those of Kubernetes where it has some."""
    assert any(
        message in problem.message
        for problem in problems_of(with_strategy(strategy))
        if not problem.is_warning
    ), [problem.message for problem in problems_of(with_strategy(strategy))]


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        (
            {
                "kind": "Deployment",
                "metadata": {"generation": 2},
                "spec": {"replicas": 3},
                "status": {"observedGeneration": 1},
            },
            "the controller has not yet observed the new template",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {},
                "spec": {"replicas": 3},
                "status": {"updatedReplicas": 1, "replicas": 4},
            },
            "1 out of 3 new pods have been updated",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {},
                "spec": {"replicas": 3},
                "status": {"updatedReplicas": 3, "replicas": 4},
            },
            "1 old pods are pending termination",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {},
                "spec": {},
                "status": {"updatedReplicas": 1, "replicas": 1},
            },
            "0 of 1 pods are available",
        ),
        (
            {
                "kind": "StatefulSet",
                "metadata": {},
                "spec": {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}},
                "status": {"updatedReplicas": 1, "replicas": 2, "availableReplicas": 2},
            },
            None,
        ),
        (
            {
                "kind": "DaemonSet",
                "metadata": {},
                "spec": {},
                "status": {"desiredNumberScheduled": 2, "updatedNumberScheduled": 1},
            },
            "1 out of 2 new pods have been updated",
        ),
        (
            {
                "kind": "DaemonSet",
                "metadata": {},
                "spec": {},
                "status": {
                    "desiredNumberScheduled": 1,
                    "updatedNumberScheduled": 1,
                    "currentNumberScheduled": 1,
                    "numberAvailable": 1,
                },
            },
            None,
        ),
    ],
)
def test_the_conditions_of_a_finished_rollout(
    document: dict[str, Any], missing: str | None
) -> None:
    """As in kubectl: template observed, new pods created, old ones gone, all available."""
    assert outstanding(document) == missing
