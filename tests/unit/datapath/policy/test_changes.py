"""Plans of clusters whose policies, labels and namespaces change."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.core import Namespace
from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster, Delete
from kubenetlab.datapath import plan, plan_probes
from kubenetlab.datapath.plan_cache import PlanCache
from tests.clusters import ONLINK, applied, running, settled
from tests.examples import examples
from tests.policies import CILIUM, NAMES, POLICIES, cilium_cluster, pod, with_policies
from tests.unit.datapath.test_changes_of_a_plan import assert_is_plan_of

ENGINES = ("nftables", "iptables", "ebpf")
Edit = Callable[[Cluster], Cluster]


def set_engine(cluster: Cluster, engine: str) -> Cluster:
    if engine == "ebpf":
        return cilium_cluster().with_changes(cluster.all(NetworkPolicy))
    config = cluster.config
    networking = structs.replace(config.networking, policy_engine=engine)
    return cluster.with_changes([structs.replace(config, networking=networking)])


def relabel(name: str, labels: dict[str, str]) -> Edit:
    """Replace the labels of a pod."""
    namespace, _, short = name.partition("/")

    def edit(cluster: Cluster) -> Cluster:
        known = cluster.get(Pod, namespace, short)
        if known is None:
            return cluster
        metadata = structs.replace(known.metadata, labels=labels)
        return settled(cluster.with_changes([structs.replace(known, metadata=metadata)]))

    return edit


def delete_pod(name: str) -> Edit:
    namespace, _, short = name.partition("/")
    return lambda cluster: settled(cluster.with_changes([Delete(Pod, namespace, short)]))


def replace_pod(name: str, node: str) -> Edit:
    """Delete a pod, if it exists, and add it with other labels."""
    manifest = pod(name, ", tier: back").replace("nodeName: worker", f"nodeName: {node}")
    return lambda cluster: running(applied(delete_pod(name)(cluster), manifest))


def label_namespace(name: str, labels: dict[str, str]) -> Edit:
    """Replace the labels of a namespace."""

    def edit(cluster: Cluster) -> Cluster:
        namespace = cluster.get(Namespace, "", name)
        assert namespace is not None
        metadata = structs.replace(namespace.metadata, labels=labels)
        return settled(cluster.with_changes([structs.replace(namespace, metadata=metadata)]))

    return edit


def set_policy(number: int, policy: dict[str, object]) -> Edit:
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"p{number}", "namespace": policy["namespace"]},
        "spec": policy["spec"],
    }
    return lambda cluster: applied(cluster, yaml.safe_dump(document))


def delete_policy(number: int, namespace: str) -> Edit:
    return lambda cluster: settled(
        cluster.with_changes([Delete(NetworkPolicy, namespace, f"p{number}")])
    )


LABELS = st.dictionaries(
    st.sampled_from(("app", "tier")), st.sampled_from(("web", "back", "front")), max_size=2
)
EDITS = st.one_of(
    st.builds(relabel, st.sampled_from(NAMES), LABELS),
    st.builds(relabel, st.sampled_from(NAMES), LABELS),
    st.builds(
        label_namespace,
        st.sampled_from(("default", "prod", "dev")),
        st.sampled_from(({}, {"team": "ops"})),
    ),
    st.builds(set_policy, st.integers(0, 3), POLICIES),
    st.builds(delete_policy, st.integers(0, 3), st.sampled_from(("default", "prod", "dev"))),
    st.builds(delete_pod, st.sampled_from(NAMES)),
    st.builds(replace_pod, st.sampled_from(NAMES), st.sampled_from(("worker", "worker2"))),
)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(40))
@given(policies=st.lists(POLICIES, max_size=3), edits=st.lists(EDITS, min_size=1, max_size=6))
def test_changes_lead_to_the_same_rules(
    engine: str, policies: list[dict[str, object]], edits: list[Edit]
) -> None:
    """Rules computed from changes equal those of a cluster that is seen for the first time."""
    cluster = set_engine(with_policies(policies), engine)
    assert_same_plans(cluster, edits, CILIUM if engine == "ebpf" else ONLINK)


@pytest.mark.parametrize(("before", "after"), [*permutations(ENGINES, 2)])
@settings(max_examples=examples(20))
@given(policies=st.lists(POLICIES, min_size=1, max_size=3))
def test_an_engine_takes_over_from_another(
    before: str, after: str, policies: list[dict[str, object]]
) -> None:
    """Nothing of another engine is used again, also when the first one comes back."""
    cluster, cache = with_policies(policies), PlanCache()
    for engine in (before, after, before):
        changed = set_engine(cluster, engine)
        decisions = CILIUM if engine == "ebpf" else ONLINK
        result = plan(changed, decisions, cache)
        probes = plan_probes(changed, decisions, cache)
        assert_is_plan_of(changed, result, probes, decisions)


def assert_same_plans(cluster: Cluster, edits: list[Edit], decisions: Decisions) -> None:
    cache = PlanCache()
    plan(cluster, decisions, cache)
    for edit in edits:
        cluster = edit(cluster)
        result = plan(cluster, decisions, cache)
        probes = plan_probes(cluster, decisions, cache)
        assert_is_plan_of(cluster, result, probes, decisions)


def test_a_label_concerns_only_its_set() -> None:
    """A changed label changes no other object than the rules on the nodes."""
    policy: dict[str, object] = {
        "namespace": "default",
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        },
    }
    cache = PlanCache()
    cluster = with_policies([policy])
    before = plan(cluster, ONLINK, cache)
    changed = relabel("default/web", {"app": "web", "tier": "front", "role": "friend"})(cluster)
    calls = cache.calls
    after = plan(changed, ONLINK, cache)
    nodes = {"node/control-plane", "node/worker", "node/worker2"}
    assert {netns for netns in after.namespaces if after[netns] is not before[netns]} == nodes
    for netns in nodes:
        differing = [obj for key, obj in after[netns].items() if before[netns][key] != obj]
        assert {obj.key[0] for obj in differing} == {"NodeRules"}
    assert cache.calls - calls < 50
