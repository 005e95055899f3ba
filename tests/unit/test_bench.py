"""Manifests, ratios and tables of the benchmarks."""

from __future__ import annotations

import pytest

from bench import manifests, measure
from kubenetlab.api.core import Node, Service
from kubenetlab.api.pods import Pod
from tests.clusters import problems_of, store


@pytest.mark.parametrize(("pods", "nodes", "services"), [(1, 2, 1), (50, 2, 3), (210, 4, 11)])
def test_a_manifest_has_the_given_number_of_pods(pods: int, nodes: int, services: int) -> None:
    """Every pod is scheduled; system pods are additional."""
    cluster = store(manifests.many(pods))
    placed = [pod for pod in cluster.all(Pod) if pod.spec.node_name]
    ours = [service for service in cluster.all(Service) if service.metadata.name.startswith("web")]
    assert (len(placed), len(cluster.all(Node)), len(ours)) == (
        pods + manifests.system_pods(nodes - 1),
        nodes,
        services,
    )


def test_manifests_have_no_problems() -> None:
    """No field is unknown or ignored."""
    assert problems_of(manifests.many(30)) + problems_of(manifests.paths(7000, 7001)) == []
    assert problems_of(manifests.mesh(2, 2, 3, is_denied=True)) == []


def test_a_ratio_compares_values_of_the_same_round() -> None:
    """A slowdown that affects both values of a round does not change the ratio."""
    assert measure.ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2


def test_a_table_is_markdown() -> None:
    """A table has a header, a separator line and rows."""
    assert measure.table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"
