"""Connections that a change of manifests opens and closes."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.examples  # noqa: F401
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.observe.changes.changes import Change, compare
from kubenetlab.observe.changes.words import sentences
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import Party, Traffic
from tests.clusters import DUAL, running, store
from tests.policies import CLUSTER, NAMES, POLICIES, with_policies

PODS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, image: agnhost}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: shop, ports: [{containerPort: 8080, name: http}]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: db, ports: [{containerPort: 5432}]}]}
---
"""
KIND = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"


def policy(spec: str, name: str = "p", namespace: str = "shop") -> str:
    return f"{KIND}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"


def cluster(policies: str = "", pods: str = PODS) -> Cluster:
    return running(store(pods + policies))


def rows(old: Cluster, new: Cluster) -> list[tuple[object, ...]]:
    return [
        (change.change, change.sources, change.destinations, change.ports)
        for change in compare(old, new)
    ]


DENY_WEB = policy("{podSelector: {matchLabels: {app: web}}}")
WEB_FROM_SHOP = policy(
    "{podSelector: {matchLabels: {app: web}}, "
    "ingress: [{from: [{podSelector: {}}], ports: [{port: http}]}]}"
)
OPEN = cluster()


def test_equal_versions_have_no_change() -> None:
    """Also with policies, and with another order of the documents."""
    both = DENY_WEB + policy("{podSelector: {}, policyTypes: [Egress]}", "q")
    assert compare(cluster(both), cluster(both)) == []
    reverse = policy("{podSelector: {}, policyTypes: [Egress]}", "q") + DENY_WEB
    assert compare(cluster(both), cluster(reverse)) == []
    assert list(sentences([])) == ["The change opens and closes no connection."]


def test_a_new_policy_closes_connections_of_groups() -> None:
    """Pods of a namespace, and hosts outside, are named together; the reason has file and line."""
    changes = compare(OPEN, cluster(DENY_WEB))
    line = PODS.count("\n") + 1
    assert changes == [
        Change(
            "closed",
            ("all pods in shop", "default/client", "nodes", "other hosts outside"),
            ("deploy:shop/web",),
            ("all ports",),
            "allowed",
            "denied",
            (f"NetworkPolicy shop/p (test.yaml:{line}) isolates the destination",),
            15,
        )
    ]


def test_a_rule_opens_connections_again() -> None:
    """Ports are those on which pods listen, others, and pings."""
    (opened,) = compare(cluster(DENY_WEB), cluster(WEB_FROM_SHOP))
    assert (opened.change, opened.sources, opened.ports) == (
        "opened",
        ("all pods in shop",),
        ("8080/TCP",),
    )
    (reason,) = opened.reasons
    assert reason.startswith("NetworkPolicy shop/p rule 0 (test.yaml:")


def test_the_last_policy_of_a_pod_opens_all_connections_when_it_is_removed() -> None:
    """The reason names the policy of the old version."""
    (opened,) = compare(cluster(DENY_WEB), OPEN)
    assert opened.change == "opened"
    assert opened.reasons[0].startswith("no policy isolates the destination any more; before: ")


def test_egress_divides_the_addresses_outside() -> None:
    """Ranges of both versions count, and exceptions are ranges of their own."""
    spec = (
        "{{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Egress], "
        "egress: [{{to: [{{ipBlock: {{cidr: 192.0.2.0/24, except: [{}]}}}}]}}]}}"
    )
    old, new = (cluster(policy(spec.format(hole))) for hole in ("192.0.2.0/26", "192.0.2.0/25"))
    assert rows(old, new) == [
        ("closed", ("sts:shop/db",), ("outside 192.0.2.0/25 (rest)",), ("all ports",))
    ]


def test_single_pods_of_a_group_can_differ() -> None:
    """A connection that only some of the pods lose is closed in part."""
    spec = "{podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: db-0}}}"
    changes = compare(OPEN, cluster(policy(spec)))
    assert {(change.before, change.after) for change in changes} == {("allowed", "partly")}
    assert any("in part (some pods still can)" in line for line in sentences(changes))


def test_new_and_removed_pods_are_named_as_such() -> None:
    """Their connections were absent before."""
    fewer = "---\n".join(PODS.split("---\n")[:-2])
    changes = compare(cluster(pods=fewer), OPEN)
    assert {change.reasons for change in changes} == {("new",)}
    assert all("sts:shop/db" in (*change.sources, *change.destinations) for change in changes)
    assert {change.reasons for change in compare(OPEN, cluster(pods=fewer))} == {("removed",)}
    assert any(line.startswith("- New: sts:shop/db can") for line in sentences(changes))


@pytest.mark.parametrize("label", ["{app: client}", "{app: other}"])
def test_labels_change_connections_without_a_new_policy(label: str) -> None:
    """The policy is the same, and selects the pod in one version only."""
    allowed = policy(
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}, "
        "podSelector: {matchLabels: {app: client}}}]}]}"
    )
    changed = PODS.replace("labels: {app: client}", f"labels: {label}")
    expected = [] if label == "{app: client}" else ["closed"]
    found = compare(cluster(allowed), cluster(allowed, changed))
    assert [change.change for change in found] == expected


def test_policies_of_tiers_count() -> None:
    """A ClusterNetworkPolicy is named with its kind."""
    tier = (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        "metadata: {name: guard}\nspec: {tier: Admin, priority: 1, "
        "subject: {namespaces: {matchLabels: {team: shop}}}, "
        "ingress: [{action: Deny, from: [{namespaces: {matchLabels: "
        "{kubernetes.io/metadata.name: default}}}]}]}\n---\n"
    )
    (closed,) = compare(OPEN, cluster(tier))
    assert (closed.sources, closed.destinations) == (("default/client",), ("all pods in shop",))
    assert closed.reasons[0].startswith("ClusterNetworkPolicy guard rule 0 (test.yaml:")


def test_a_dual_stack_cluster_is_compared_by_its_primary_family() -> None:
    """Both families have the same selectors."""
    old, new = running(store(DUAL + PODS)), running(store(DUAL + PODS + DENY_WEB))
    assert [row[0] for row in rows(old, new)] == ["closed"]


def _changed(change: Change) -> set[tuple[str, str, str]]:
    """Return the pairs of pods and ports of a change."""
    members = {f"all pods in {name.partition('/')[0]}": set[str]() for name in NAMES}
    for name in NAMES:
        members[f"all pods in {name.partition('/')[0]}"].add(name)
    everything = {"all pods": set(NAMES), **members}
    sources, destinations = (
        {name for title in titles for name in everything.get(title, {title})}
        for titles in (change.sources, change.destinations)
    )
    ports = PORTS if change.ports == ("all ports",) else PORTS.keys() & set(change.ports)
    return {
        (source, destination, port)
        for source in sources & set(NAMES)
        for destination in destinations & set(NAMES)
        for port in ports
        if source != destination
    }


PORTS = {"8080/TCP": Traffic("TCP", 8080), "53/UDP": Traffic("UDP", 53), "ping": Traffic("ICMP")}


@settings(max_examples=60, deadline=None)
@given(st.lists(POLICIES, max_size=3), st.lists(POLICIES, max_size=3))
def test_changes_are_those_of_all_verdicts(
    old: list[dict[str, object]], new: list[dict[str, object]]
) -> None:
    """For random policies, groups and merged rows contain exactly the pairs that change."""
    versions = [with_policies(policies) for policies in (old, new)]
    evaluators = [Evaluator(each) for each in versions]
    pods = {pod.full_name: pod for pod in CLUSTER.all(Pod)}
    parties = {
        name: Party(pods[name].addresses[0], name, pods[name].spec.node_name) for name in NAMES
    }
    expected: dict[str, set[tuple[str, str, str]]] = {"opened": set(), "closed": set()}
    for source, destination in permutations(NAMES, 2):
        for port, traffic in PORTS.items():
            before, after = (
                each.verdict(parties[source], parties[destination], traffic).is_allowed
                for each in evaluators
            )
            if before != after:
                expected["opened" if after else "closed"].add((source, destination, port))
    found: dict[str, set[tuple[str, str, str]]] = {"opened": set(), "closed": set()}
    for change in compare(versions[0], versions[1]):
        found[change.change] |= _changed(change)
    assert found == expected
