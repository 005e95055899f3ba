"""Decisions of `up`: pod layout and neighbours."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.datapath.decisions import decide
from tests.clusters import (
    ONE_NODE,
    ONLINK,
    deployment,
    settled,
    store,
)


@pytest.mark.parametrize(
    ("replicas", "has_br_netfilter", "layout", "neighbors"),
    [
        (3, True, "onlink", "dynamic"),
        (3, False, "routed", "dynamic"),
        (60, True, "onlink", "permanent"),
        (65, True, "routed", "dynamic"),
        (130, True, "routed", "permanent"),
    ],
)
def test_the_layout_depends_on_kernel_and_size(
    replicas: int, has_br_netfilter: bool, layout: str, neighbors: str
) -> None:
    """Without br_netfilter or with more than 64 pods per node it is routed.

    With more than 256 possible neighbours their entries are permanent.
    """
    cluster = settled(store(ONE_NODE + deployment(replicas=replicas)))
    decisions = decide(
        cluster.with_changes([structs.replace(ONLINK, is_final=False)]),
        has_br_netfilter=has_br_netfilter,
    )
    assert (decisions.cni_options["layout"], decisions.neighbors) == (layout, neighbors)


def test_a_running_lab_keeps_its_layout() -> None:
    """Neighbours may become permanent when it grows. Options of the mode take precedence."""
    small = store(deployment(replicas=3))
    kept = decide(small, has_br_netfilter=True)
    grown = settled(store(ONE_NODE + deployment(replicas=70))).with_changes([kept])
    grown_decisions = decide(grown, has_br_netfilter=False)
    assert (grown_decisions.cni_options["layout"], grown_decisions.neighbors) == (
        "onlink",
        "permanent",
    )
    assert (
        decide(
            small.with_changes([structs.replace(grown_decisions, is_final=True)]),
            has_br_netfilter=True,
        ).neighbors
        == "permanent"
    )
    document = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: {type: bridge, "
        "layout: routed, neighbors: permanent}}\n---\n"
    )
    decisions = decide(
        store(document).with_changes([structs.replace(kept, is_final=False)]), has_br_netfilter=True
    )
    assert (decisions.cni_options["layout"], decisions.neighbors) == ("routed", "permanent")
