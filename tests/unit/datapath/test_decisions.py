"""Decisions of `up`: pod layout, neighbours, and the policy engine."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.datapath.cluster_modes import policy_engine
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


POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {}}
"""
NO_IPTABLES = {"iptables": "this machine lacks ipset"}


@pytest.mark.parametrize(
    ("networking", "faults", "engine", "is_replaced"),
    [
        ("cni: calico", {}, "iptables", False),
        ("cni: calico", NO_IPTABLES, "nftables", True),
        ("cni: calico, policyEngine: iptables", NO_IPTABLES, "iptables", False),
        ("cni: calico", NO_IPTABLES | {"nftables": "and nft"}, "iptables", False),
        ("cni: bridge", NO_IPTABLES, "nftables", False),
        ("cni: flannel", NO_IPTABLES, "none", False),
    ],
)
def test_a_default_policy_engine_that_cannot_run_is_replaced(
    networking: str, faults: dict[str, str], engine: str, is_replaced: bool
) -> None:
    """The engine of the Cluster document is not, and nothing is probed without policies."""
    config = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{{networking}}}\n---\n"
    )
    cluster = store(config + POLICY)
    decisions = decide(
        cluster, has_br_netfilter=True, engine_fault=lambda name: faults.get(name, "")
    )
    assert policy_engine(cluster.config.networking, decisions) == (engine, {})
    reason = "policy engine nftables: this machine lacks ipset" if is_replaced else ""
    assert decisions.policy_engine_reason == reason

    def probe(name: str) -> str:
        raise AssertionError(name)

    decide(store(config), has_br_netfilter=True, engine_fault=probe)
