"""Scheduling gates and readiness gates of pods."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.apps import DaemonSet
from kubenetlab.api.core import Event, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.pods import Pod
from kubenetlab.api.render import render
from kubenetlab.api.store import Cluster
from kubenetlab.cli.describe.columns import columns
from kubenetlab.cli.terminal.theme import unpaint
from kubenetlab.errors import ManifestError
from kubenetlab.observe.settled import verdicts
from tests.clusters import (
    applied,
    pod,
    pod_named,
    problems_of,
    replaced,
    running,
    service,
    settled,
    store,
)

GATED = ", schedulingGates: [{name: example.com/quota}, {name: example.com/arch}]"
ONE_GATE = ", schedulingGates: [{name: example.com/arch}]"
MESSAGE = "Scheduling is blocked due to non-empty scheduling gates"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def scheduled(cluster: Cluster, name: str = "a") -> tuple[str, str, str]:
    condition = pod_named(cluster, name).status.condition("PodScheduled")
    assert condition is not None
    return condition.status, condition.reason, condition.message


def row(cluster: Cluster, name: str = "a") -> list[str]:
    """Return the cells of a pod in `get pods -o wide`, without colours."""
    cells = columns("Pod", render(cluster, pod_named(cluster, name)), is_wide=True)
    return [unpaint(cell) for cell in cells]


def state(cluster: Cluster, name: str = "a") -> tuple[str, str]:
    return next(
        (item.state, item.reason) for item in verdicts(cluster) if item.pod == f"default/{name}"
    )


def test_a_gated_pod_stays_pending() -> None:
    """It has no node, no address and no event of the scheduler until the last gate is removed."""
    cluster = running(store(pod("a", GATED)))
    assert (pod_named(cluster, "a").status.phase, pod_named(cluster, "a").spec.node_name) == (
        "Pending",
        "",
    )
    assert scheduled(cluster) == ("False", "SchedulingGated", MESSAGE)
    assert not [event for event in cluster.all(Event) if event.involved_object.name == "a"]
    assert row(cluster)[2] == "SchedulingGated"
    assert state(cluster) == ("unready", f"SchedulingGated: {MESSAGE}")
    cluster = running(applied(cluster, pod("a", ONE_GATE)))
    assert scheduled(cluster) == ("False", "SchedulingGated", MESSAGE)
    cluster = running(applied(cluster, pod("a")))
    assert pod_named(cluster, "a").is_ready
    assert scheduled(cluster) == ("True", "", "")


def test_a_pod_without_gates_that_no_node_fits_is_unschedulable() -> None:
    """The reason changes from SchedulingGated to Unschedulable."""
    nowhere = ", nodeSelector: {disk: ssd}"
    cluster = applied(store(pod("a", nowhere + ONE_GATE)), pod("a", nowhere))
    assert scheduled(cluster)[:2] == ("False", "Unschedulable")


def test_a_gated_pod_reserves_no_resources() -> None:
    """Its host port is free for another pod."""
    host = ", ports: [{containerPort: 80, hostPort: 8080}]"
    cluster = store(
        "".join(
            pod(name, ", nodeSelector: {kubernetes.io/hostname: worker}" + gates, container=host)
            for name, gates in (("a", ONE_GATE), ("b", ""))
        )
    )
    assert pod_named(cluster, "b").spec.node_name == "worker"


def test_gated_pods_of_a_daemon_set_belong_to_their_nodes() -> None:
    """Each node has one gated pod, which counts as not scheduled.

    Each pod runs on its own node when its gates are removed.
    """
    text = (
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec:\n  selector: "
        "{matchLabels: {app: d}}\n"
        "  template: {metadata: {labels: {app: d}}, spec: {containers: [{name: main, image: "
        "agnhost, args: [netexec]}]"
        f"{ONE_GATE}}}}}\n"
    )
    cluster = running(store(text))
    pods = [item for item in cluster.all(Pod) if item.labels.get("app") == "d"]
    assert [item.spec.node_name for item in pods] == ["", ""]
    daemon_set = cluster.get(DaemonSet, "default", "d")
    assert daemon_set is not None
    assert (daemon_set.status.desired_number_scheduled, daemon_set.status.number_ready) == (2, 0)
    free = [
        structs.replace(item, spec=structs.replace(item.spec, scheduling_gates=())) for item in pods
    ]
    cluster = running(settled(cluster.with_changes(free)))
    after = [item for item in cluster.all(Pod) if item.labels.get("app") == "d"]
    assert {item.name for item in after} == {item.name for item in pods}
    assert sorted(item.spec.node_name for item in after) == ["worker", "worker2"]


def affinity(*terms: str) -> str:
    written = ", ".join(f"{{matchExpressions: [{term}]}}" for term in terms)
    return f", affinity: {{nodeAffinity: {{{REQUIRED}: {{nodeSelectorTerms: [{written}]}}}}}}"


LINUX, LARGE = (
    "{key: os, operator: In, values: [linux]}",
    "{key: cpus, operator: Gt, values: ['4']}",
)
TERMS = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"


@pytest.mark.parametrize(
    ("before", "after", "refusal"),
    [
        pytest.param(
            ONE_GATE,
            GATED,
            "spec.schedulingGates[0].name: only deletion is allowed, but found new scheduling "
            'gate "example.com/quota"',
            id="a new gate",
        ),
        pytest.param(
            "",
            ONE_GATE,
            "spec.schedulingGates[0].name: only deletion is allowed, but found new scheduling "
            'gate "example.com/arch"',
            id="a gate too late",
        ),
        pytest.param(
            GATED + ", nodeSelector: {a: b}",
            GATED + ", nodeSelector: {a: b, c: d}",
            "",
            id="a label more",
        ),
        pytest.param(
            GATED + ", nodeSelector: {a: b}",
            ONE_GATE + ", nodeSelector: {a: c}",
            "spec.nodeSelector: only additions are allowed while the pod has schedulingGates",
            id="another label",
        ),
        pytest.param(GATED, GATED + affinity(LINUX, LARGE), "", id="affinity"),
        pytest.param(
            GATED + affinity(LINUX),
            GATED + affinity(f"{LINUX}, {LARGE}"),
            "",
            id="a narrower affinity",
        ),
        pytest.param(
            GATED + affinity(LINUX),
            GATED + affinity(LARGE),
            f"{TERMS}[0]: while the pod has schedulingGates, expressions of this term may be "
            "added, but none may be changed or removed",
            id="another affinity",
        ),
        pytest.param(
            GATED + affinity(LINUX),
            GATED + affinity(LINUX, LARGE),
            f"{TERMS}: terms cannot be added or removed: expected 1, found 2",
            id="an alternative",
        ),
        pytest.param(
            GATED + affinity(LINUX),
            GATED,
            f"{TERMS}: terms cannot be added or removed: expected 1, found 0",
            id="no affinity",
        ),
        pytest.param(
            GATED,
            GATED + ", hostNetwork: true",
            "spec: a pod's spec is immutable but for",
            id="anything else",
        ),
        pytest.param(
            "",
            ", nodeSelector: {a: b}",
            "spec: a pod's spec is immutable but for",
            id="a label without gates",
        ),
    ],
)
def test_only_some_fields_may_change_while_a_pod_is_gated(
    before: str, after: str, refusal: str
) -> None:
    """Gates can only be removed. Until then the pod's choice of nodes may become narrower."""
    cluster = store(pod("a", before))
    if not refusal:
        applied(cluster, pod("a", after))
        return
    with pytest.raises(ManifestError) as error:
        applied(cluster, pod("a", after))
    assert refusal in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            ", schedulingGates: [{name: a b}]",
            "spec.schedulingGates[0].name: expected a name of at most 63 letters",
        ),
        (
            ", schedulingGates: [{name: a}, {name: a}]",
            'spec.schedulingGates[1].name: "a" is listed twice',
        ),
        (
            ", schedulingGates: [{name: a}], nodeName: worker",
            "spec.nodeName: may not be set until all schedulingGates are removed",
        ),
        (
            ", readinessGates: [{conditionType: a b}]",
            "spec.readinessGates[0].conditionType: expected a name of at most 63 letters",
        ),
    ],
)
def test_invalid_gates_are_rejected(spec: str, message: str) -> None:
    """The problem names the field."""
    (problem,) = problems_of(pod("a", spec))
    assert message in str(problem)


LB, DNS = "example.com/load-balancer", "example.com/dns"
GATES = f", readinessGates: [{{conditionType: {LB}}}, {{conditionType: {DNS}}}]"


def conditions(value: str) -> str:
    return f', annotations: {{kubenetlab.dev/conditions: "{value}"}}'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "",
            f'corresponding condition of pod readiness gate "{LB}" does not exist., '
            f'corresponding condition of pod readiness gate "{DNS}" does not exist.',
        ),
        (f"{LB}=True", f'corresponding condition of pod readiness gate "{DNS}" does not exist.'),
        (
            f"{LB}=True, {DNS}=False",
            f'the status of pod readiness gate "{DNS}" is not "True", but False',
        ),
        (
            f"{LB}=Unknown,{DNS}=True",
            f'the status of pod readiness gate "{LB}" is not "True", but Unknown',
        ),
        (f"{LB}=True,{DNS}=True", ""),
    ],
)
def test_a_pod_is_ready_when_all_its_readiness_gates_are_true(value: str, message: str) -> None:
    """The conditions are in the pod's status; its endpoint is ready when the pod is."""
    text = (
        pod("a", GATES, meta=(conditions(value) if value else "") + ", labels: {app: web}")
        + service()
    )
    cluster = running(store(text))
    gated_pod = pod_named(cluster, "a")
    ready = gated_pod.status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.message) == (("False", message) if message else ("True", ""))
    assert (ready.reason == "ReadinessGatesNotReady") == bool(message)
    containers_ready = gated_pod.status.condition("ContainersReady")
    assert containers_ready is not None
    assert containers_ready.status == "True"
    expected = dict(part.split("=") for part in value.replace(" ", "").split(",") if part)
    own = {
        item.type: (item.status, item.last_transition_time)
        for item in gated_pod.status.conditions
        if "/" in item.type
    }
    assert own == {name: (status, "2023-11-14T22:13:20Z") for name, status in expected.items()}
    assert row(cluster)[7] == f"{list(expected.values()).count('True')}/2"
    (piece,) = (item for item in cluster.all(EndpointSlice) if item.service_name == "web")
    assert [endpoint.conditions.is_ready for endpoint in piece.endpoints] == [not message]
    assert cluster.get(Service, "default", "web") is not None


def test_conditions_follow_the_annotation() -> None:
    """The pod becomes ready and unready in place; a condition has the time of its last change."""
    cluster = running(store(pod("a", GATES, meta=conditions(f"{LB}=True,{DNS}=False"))))
    assert state(cluster) == (
        "unready",
        f'ReadinessGatesNotReady: the status of pod readiness gate "{DNS}" is not "True", but '
        "False",
    )
    later = 1_700_000_060.0
    cluster = applied(cluster, pod("a", GATES, meta=conditions(f"{LB}=True,{DNS}=True")), now=later)
    gated_pod = pod_named(cluster, "a")
    assert gated_pod.is_ready
    times = {
        item.type: item.last_transition_time
        for item in gated_pod.status.conditions
        if "/" in item.type
    }
    assert times == {LB: "2023-11-14T22:13:20Z", DNS: "2023-11-14T22:14:20Z"}
    cluster = applied(cluster, pod("a", GATES), now=later)
    assert not pod_named(cluster, "a").is_ready


def test_a_readiness_gate_without_its_condition_makes_a_pod_stuck() -> None:
    """A missing condition never appears by itself. A false condition is intended."""
    assert state(running(store(pod("a", GATES, meta=conditions(f"{LB}=False"))))) == (
        "stuck",
        f'ReadinessGatesNotReady: the status of pod readiness gate "{LB}" is not "True", but '
        "False, "
        f'corresponding condition of pod readiness gate "{DNS}" does not exist. '
        f'(set it by the annotation kubenetlab.dev/conditions: "{DNS}=True")',
    )
    both = replaced(
        pod("a", GATES, meta=conditions(f"{LB}=True,{DNS}=True")),
        ("annotations: {", 'annotations: {kubenetlab.dev/ready: "false", '),
    )
    assert state(running(store(both))) == ("unready", 'annotation kubenetlab.dev/ready is "false"')


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "example.com/a",
            'expected conditions such as "example.com/load-balancer=True", each once, with the '
            'status True, False or Unknown, found "example.com/a"',
        ),
        ("a=true", 'status True, False or Unknown, found "a=true"'),
        ("a=True, a=False", 'each once, with the status True, False or Unknown, found "a=False"'),
        ("=True", 'status True, False or Unknown, found "=True"'),
        ("a b=True", "expected a name of at most 63 letters"),
        (
            "Ready=True",
            "the condition Ready is set by the scheduler or the kubelet; an annotation cannot "
            "set it",
        ),
    ],
)
def test_an_invalid_condition_is_rejected(value: str, message: str) -> None:
    """The message has the invalid part."""
    (problem,) = problems_of(pod("a", meta=conditions(value)))
    assert (problem.is_warning, message in problem.message) == (False, True)
