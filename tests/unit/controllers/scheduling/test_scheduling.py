"""Scheduling: filters, upstream's messages, and even spreading."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from tests.clusters import applied, pod_named, problems_of, store

ZONES = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes:
- {role: control-plane}
- {role: worker, name: a1, labels: {zone: a, cpus: "4"}}
- {role: worker, name: a2, labels: {zone: a, cpus: "8"}}
- {role: worker, name: b1, labels: {zone: b, cpus: "16"}}
---
"""
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pod(
    name: str,
    spec: str = "",
    labels: str = "{app: web}",
    ports: str = "",
    namespace: str = "default",
) -> str:
    meta = f"{{name: {name}, namespace: {namespace}, labels: {labels}}}"
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {meta}\n"
        f"spec: {{containers: [{{name: main, image: nginx{ports}}}]{spec}}}\n"
        f"---\n"
    )


def node_affinity(*terms: str) -> str:
    written = ", ".join(f"{{matchExpressions: [{term}]}}" for term in terms)
    return f", affinity: {{nodeAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{written}]}}}}}}"


def pods_affinity(kind: str, term: str) -> str:
    return f", affinity: {{{kind}: {{{REQUIRED}: [{term}]}}}}"


def nodes_of(cluster: Cluster, *names: str) -> list[str]:
    return [pod_named(cluster, name).spec.node_name for name in names]


def reason(cluster: Cluster, name: str) -> str:
    condition = pod_named(cluster, name).status.condition("PodScheduled")
    assert condition is not None
    return condition.message.partition(". preemption")[0]


@pytest.mark.parametrize(
    ("terms", "nodes"),
    [
        (("{key: zone, operator: In, values: [b]}",), {"b1"}),
        (("{key: zone, operator: NotIn, values: [a]}",), {"b1"}),
        (("{key: cpus, operator: Gt, values: ['5']}",), {"a2", "b1"}),
        (("{key: cpus, operator: Lt, values: ['5']}",), {"a1"}),
        (
            ("{key: zone, operator: In, values: [a]}, {key: cpus, operator: Gt, values: ['5']}",),
            {"a2"},
        ),
        (
            ("{key: zone, operator: In, values: [b]}", "{key: cpus, operator: In, values: ['4']}"),
            {"a1", "b1"},
        ),
        (("{key: zone, operator: DoesNotExist}",), set()),
    ],
)
def test_node_affinity_selects_nodes(terms: tuple[str, ...], nodes: set[str]) -> None:
    """Terms are alternatives; all expressions of a term must hold; missing labels match no list."""
    cluster = store(
        ZONES + "".join(pod(f"p{number}", node_affinity(*terms)) for number in range(6))
    )
    used = set(nodes_of(cluster, *(f"p{number}" for number in range(6))))
    assert used == (nodes or {""})
    if not nodes:
        assert reason(cluster, "p0") == (
            "0/4 nodes are available: 1 node(s) had untolerated taint "
            "{node-role.kubernetes.io/control-plane: }, "
            "3 node(s) didn't match Pod's node affinity/selector"
        )


def test_a_host_port_has_one_owner_on_a_node() -> None:
    """Pods with hostPort or hostNetwork conflict unless address or protocol differ."""
    host = ", ports: [{containerPort: 80, hostPort: 8080}]"
    cluster = store(ZONES + "".join(pod(f"p{number}", ports=host) for number in range(4)))
    assert sorted(nodes_of(cluster, "p0", "p1", "p2")) == ["a1", "a2", "b1"]
    assert "3 node(s) didn't have free ports for the requested pod ports" in reason(cluster, "p3")
    more = applied(
        cluster, pod("udp", ports=", ports: [{containerPort: 80, hostPort: 8080, protocol: UDP}]")
    )
    assert nodes_of(more, "udp") != [""]
    blocked = applied(
        cluster, pod("host", ", hostNetwork: true", ports=", ports: [{containerPort: 8080}]")
    )
    assert nodes_of(blocked, "host") == [""]


def test_anti_affinity_keeps_pods_apart() -> None:
    """One pod per domain; pods without affinity are kept away by pods that have it, too."""
    apart = pods_affinity(
        "podAntiAffinity", "{topologyKey: zone, labelSelector: {matchLabels: {app: web}}}"
    )
    cluster = store(ZONES + pod("one", apart) + pod("two", apart) + pod("three", apart))
    zones = {name: name[0] for name in nodes_of(cluster, "one", "two")}
    assert sorted(zones.values()) == ["a", "b"]
    assert "3 node(s) didn't match pod anti-affinity rules" in reason(cluster, "three")
    assert "3 node(s) didn't satisfy existing pods anti-affinity rules" in reason(
        applied(cluster, pod("plain")), "plain"
    )
    assert nodes_of(applied(cluster, pod("other", labels="{app: db}")), "other") != [""]


def test_affinity_keeps_pods_together() -> None:
    """The first pod of a group may run anywhere; a pod whose affinity matches no pod waits."""
    near = pods_affinity(
        "podAffinity", "{topologyKey: zone, labelSelector: {matchLabels: {app: web}}}"
    )
    cluster = store(ZONES + "".join(pod(f"p{number}", near) for number in range(4)))
    assert len({name[0] for name in nodes_of(cluster, "p0", "p1", "p2", "p3")}) == 1
    lonely = pods_affinity(
        "podAffinity", "{topologyKey: zone, labelSelector: {matchLabels: {app: nobody}}}"
    )
    assert "3 node(s) didn't match pod affinity rules" in reason(
        store(ZONES + pod("lonely", lonely)), "lonely"
    )


def test_affinity_terms_select_namespaces() -> None:
    """The pod's own, the named ones, or those whose labels match."""
    spaces = "apiVersion: v1\nkind: Namespace\nmetadata: {name: far, labels: {team: x}}\n---\n"
    existing = spaces + pod("target", namespace="far", spec=", nodeName: b1")
    for namespaces, expected in (
        ("", ""),
        (", namespaces: [far]", "b1"),
        (", namespaceSelector: {matchLabels: {team: x}}", "b1"),
        (", namespaceSelector: {}", "b1"),
    ):
        near = pods_affinity(
            "podAffinity",
            f"{{topologyKey: zone, labelSelector: {{matchLabels: {{app: web}}}}{namespaces}}}",
        )
        assert nodes_of(
            store(ZONES + existing + pod("near", near, labels="{app: other}")), "near"
        ) == [expected]


def spread(skew: int, when: str = "DoNotSchedule", key: str = "zone") -> str:
    return (
        f", topologySpreadConstraints: [{{maxSkew: {skew}, topologyKey: {key}, "
        f"whenUnsatisfiable: {when}, labelSelector: {{matchLabels: {{app: "
        f"web}}}}}}]"
    )


@given(st.integers(1, 3), st.integers(1, 12))
def test_a_spread_never_exceeds_max_skew(skew: int, count: int) -> None:
    """However many pods there are, the zones differ by at most maxSkew."""
    cluster = store(ZONES + "".join(pod(f"p{number}", spread(skew)) for number in range(count)))
    zones = Counter({"a": 0, "b": 0})
    zones.update(name[0] for name in nodes_of(cluster, *(f"p{number}" for number in range(count))))
    assert "" not in zones
    assert max(zones.values()) - min(zones.values()) <= skew


def test_an_impossible_spread_constraint() -> None:
    """If a zone is unreachable the next pod waits; with ScheduleAnyway it is bound."""
    only_a = ", nodeSelector: {zone: a}"
    cluster = store(
        ZONES
        + pod("b", ", nodeName: b1")
        + pod("a", spread(1) + only_a)
        + pod("c", spread(1) + only_a)
    )
    assert "" not in nodes_of(cluster, "a", "c")  # zone b is not eligible, so it does not count
    missing = store(ZONES + pod("x", spread(1, key="nosuch")))
    assert "(missing required label)" in reason(missing, "x")
    assert nodes_of(store(ZONES + pod("x", spread(1, "ScheduleAnyway", "nosuch"))), "x") != [""]
    wishes = store(
        ZONES
        + pod("one", ", nodeName: a1")
        + pod("two", ", nodeName: a2")
        + pod("three", spread(1, "ScheduleAnyway"))
    )
    assert nodes_of(wishes, "three") == ["b1"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (node_affinity("{key: a, operator: In}"), "required with operator In"),
        (
            node_affinity("{key: a, operator: Gt, values: [x]}"),
            "expected one whole number with operator Gt",
        ),
        (
            pods_affinity("podAffinity", "{topologyKey: ''}"),
            "expected a label of nodes such as kubernetes.io/hostname, found an empty string",
        ),
        (spread(0), "expected a number of pods of at least 1, found 0"),
        (
            f", affinity: {{nodeAffinity: {{{REQUIRED}: {{nodeSelectorTerms: []}}}}}}",
            "required: at least one term",
        ),
    ],
)
def test_invalid_scheduling_fields_are_rejected(spec: str, message: str) -> None:
    """The message has field and reason."""
    assert any(message in problem.message for problem in problems_of(pod("p", spec)))


def test_pods_of_one_owner_are_spread_evenly() -> None:
    """Without constraints each node gets a pod before any node gets a second one."""
    text = (
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: r}\n"
        "spec: {replicas: 6, selector: {matchLabels: {a: b}}, template: "
        "{metadata: {labels: {a: b}}, spec: {containers: [{name: m, image: "
        "nginx}]}}}\n"
    )
    cluster = store(ZONES + text)
    pods: list[Pod] = list(cluster.select("default", {"a": "b"}))
    assert Counter(pod_.spec.node_name for pod_ in pods) == {"a1": 2, "a2": 2, "b1": 2}
