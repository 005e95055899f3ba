"""What bench/ measures, and how figures become a table."""

from __future__ import annotations

import pytest

from bench import manifests, measure
from kubenetlab.api.core import Node, Service
from kubenetlab.api.pods import Pod
from tests.clusters import problems_of, store


@pytest.mark.parametrize(("pods", "nodes", "services"), [(1, 2, 1), (50, 2, 3), (210, 4, 11)])
def test_a_lab_has_the_pods_it_is_asked_for(pods: int, nodes: int, services: int) -> None:
    """Each has a node to run on; the system's own come on top."""
    cluster = store(manifests.many(pods))
    placed = [pod for pod in cluster.all(Pod) if pod.spec.node_name]
    ours = [service for service in cluster.all(Service) if service.metadata.name.startswith("web")]
    assert (len(placed), len(cluster.all(Node)), len(ours)) == (
        pods + manifests.system_pods(nodes - 1),
        nodes,
        services,
    )


def test_manifests_are_without_a_fault() -> None:
    """Nothing in them is unknown or ignored."""
    assert problems_of(manifests.many(30)) + problems_of(manifests.paths(7000, 7001)) == []


def test_a_ratio_is_of_what_was_measured_in_turn() -> None:
    """A slow minute that hits both halves of a round changes nothing."""
    assert measure.ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2


def test_a_table_is_markdown() -> None:
    """Head, line, rows."""
    assert measure.table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"
