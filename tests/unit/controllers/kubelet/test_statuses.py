"""Statuses of pods and containers, computed from the reports of the nodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import pytest
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.core import Event
from kubenetlab.api.lab import Attachment, ContainerReport, PodRuntimeStatus, ProbeReport
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.kubelet.containers import back_off_s
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.status_reports import program_reports
from kubenetlab.lab.messages.app_worker import RunReport
from kubenetlab.names import pod_netns
from tests.clusters import NOW, observed, pod, pod_named, report, running, settled, store

State = Literal["running", "exited"]


def test_a_pod_is_ready_only_after_reports() -> None:
    """Sandbox, container and probe must each be reported."""
    cluster = store(pod("a"))
    assert pod_named(cluster, "a").status.phase == "Pending"
    pod_ = pod_named(cluster, "a")
    runtime = observed(pod_)
    steps = [
        structs.replace(runtime, containers={}, probes={}),
        structs.replace(runtime, probes={}),
        runtime,
    ]
    phases = []
    for step in steps:
        cluster = settled(cluster.with_changes([step]))
        pod_ = pod_named(cluster, "a")
        phases.append((pod_.status.phase, pod_.is_ready, pod_.addresses))
    assert phases == [
        ("Pending", False, ("10.244.1.2",)),
        ("Running", False, ("10.244.1.2",)),
        ("Running", True, ("10.244.1.2",)),
    ]


def test_the_ready_annotation_makes_a_pod_unready() -> None:
    """Its container is ready, the pod is not, and the condition has the reason."""
    cluster = running(store(pod("a", meta=', annotations: {kubenetlab.dev/ready: "false"}')))
    ready = pod_named(cluster, "a").status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "ReadinessGatesNotReady")
    assert pod_named(cluster, "a").status.container_statuses[0].ready


def test_a_crashed_container_restarts_with_back_off() -> None:
    """At once, then after 10, 20, 40 … seconds, with CrashLoopBackOff in between."""
    crashed = ContainerReport(0, "failed", 1, "listen tcp :80: bind: address already in use", NOW)
    cluster = report(running(store(pod("a"))), "a", crashed, now=NOW)
    status = pod_named(cluster, "a").status.container_statuses[0]
    assert (status.restart_count, status.state.waiting and status.state.waiting.reason) == (
        1,
        "ContainerCreating",
    )
    cluster = report(cluster, "a", structs.replace(crashed, attempt=1, at=NOW + 1), now=NOW + 1)
    status = pod_named(cluster, "a").status.container_statuses[0]
    assert (status.restart_count, status.state.waiting and status.state.waiting.reason) == (
        1,
        "CrashLoopBackOff",
    )
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.message == crashed.message
    again, states = controllers.run(cluster, ControllerStates(), NOW + 5)
    assert (again, states.wake_at) == (cluster, NOW + 11)
    status = pod_named(settled(cluster, NOW + 11), "a").status.container_statuses[0]
    assert (status.restart_count, status.state.waiting and status.state.waiting.reason) == (
        2,
        "ContainerCreating",
    )
    assert [back_off_s(restarts) for restarts in (0, 1, 2, 3, 6, 50)] == [0, 10, 20, 40, 300, 300]


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Never", 0, "Succeeded"),
        ("Never", 3, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 3, "Running"),
        ("Always", 0, "Running"),
    ],
)
def test_the_restart_policy_decides_how_a_pod_ends(policy: str, code: int, phase: str) -> None:
    """Succeeded and Failed are final: the pod leaves its Services and releases its address."""
    cluster = report(
        running(store(pod("a", f", restartPolicy: {policy}"))),
        "a",
        ContainerReport(0, "exited", code, at=NOW),
        now=NOW,
    )
    pod_ = pod_named(cluster, "a")
    assert pod_.status.phase == phase
    assert pod_.is_finished == (cluster.get(Attachment, "default", "a") is None)


def test_a_failed_liveness_probe_restarts_the_container() -> None:
    """After failureThreshold failures; pod and address stay, the restart count rises."""
    cluster = running(
        store(pod("a", container=", livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 2}"))
    )
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    for failures, restarts in ((1, 0), (2, 1)):
        probe = ProbeReport(0, "liveness", False, "connection refused", NOW + failures, failures)
        cluster = settled(
            cluster.with_changes(
                [structs.replace(runtime, probes={**runtime.probes, "main/liveness": probe})]
            ),
            NOW + failures,
        )
        assert pod_named(cluster, "a").status.container_statuses[0].restart_count == restarts
    assert {"Unhealthy", "Killing"} <= {event.reason for event in cluster.all(Event)}
    assert pod_named(cluster, "a").addresses == ("10.244.1.2",)


def test_an_event_is_recorded_once() -> None:
    """Later changes of the pod's status do not repeat it."""
    cluster = running(
        store(pod("a", container=", livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 1}"))
    )
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    failed = ProbeReport(0, "liveness", False, "connection refused", NOW + 1, 1)
    cluster = settled(
        cluster.with_changes(
            [structs.replace(runtime, probes={**runtime.probes, "main/liveness": failed})]
        ),
        NOW + 1,
    )
    counts = {
        event.name: event.count
        for event in cluster.all(Event)
        if event.reason in ("Unhealthy", "Killing")
    }
    assert sorted(counts.values()) == [1, 1]
    for attempt, later in ((1, 2), (1, 3)):
        started = ContainerReport(attempt, "running", at=NOW + later)
        cluster = report(cluster, "a", started, now=NOW + later)
    assert {
        event.name: event.count
        for event in cluster.all(Event)
        if event.reason in ("Unhealthy", "Killing")
    } == counts


@pytest.mark.parametrize(
    ("ended", "messages"),
    [
        (
            ContainerReport(0, "exited", 3, "bye", NOW + 1),
            ["Started container main", "Container main ended: exit status 3: bye"],
        ),
        (
            ContainerReport(0, "exited", 137, "killed by signal 9", NOW + 1),
            ["Started container main", "Container main ended: killed by signal 9"],
        ),
        (ContainerReport(0, "exited", 0, "", NOW + 1), ["Started container main"]),
        (
            ContainerReport(
                0, "failed", 127, 'exec: "x": executable file not found in $PATH', NOW + 1
            ),
            ['Error: exec: "x": executable file not found in $PATH'],
        ),
    ],
)
@pytest.mark.parametrize("is_seen_running", [True, False])
def test_the_end_of_a_container_is_an_event(
    ended: ContainerReport, messages: list[str], is_seen_running: bool
) -> None:
    """Also when no report saw it running; a container that never ran has no Started event."""
    cluster = store(pod("a", ", restartPolicy: Never"))
    if is_seen_running and ended.state == "exited":
        cluster = running(cluster)
    for later in (0, 1):
        cluster = report(cluster, "a", ended, now=NOW + 1 + later)
    recorded = [
        (event.message, event.count)
        for event in cluster.all(Event)
        if event.involved_object.name == "a" and "kubelet" in event.source.component
    ]
    assert recorded == [(message, 1) for message in messages]


SIDECAR = (
    ", restartPolicy: Never, initContainers: [{name: side, image: agnhost, "
    "args: [netexec, --http-port=9000], restartPolicy: Always}]"
)


@pytest.mark.parametrize(("code", "reason"), [(0, "PodCompleted"), (3, "PodFailed")])
def test_sidecars_end_with_their_pod(code: int, reason: str) -> None:
    """The condition Ready has Kubernetes' reason."""
    cluster = running(running(store(pod("a", SIDECAR))))
    assert pod_named(cluster, "a").is_ready
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    ended = {**runtime.containers, "main": ContainerReport(0, "exited", code, at=NOW + 1)}
    pod_ = pod_named(
        settled(cluster.with_changes([structs.replace(runtime, containers=ended)]), NOW + 1), "a"
    )
    (side,) = pod_.status.init_container_statuses
    ready = pod_.status.condition("Ready")
    assert side.state.terminated is not None
    assert ready is not None
    assert (ready.status, ready.reason, side.ready) == ("False", reason, False)


def test_an_outdated_report_changes_nothing() -> None:
    """A program can end before the report of its start arrives; the next attempt is another run."""
    cluster = running(store(pod("a")))
    netns = pod_netns("default", "a", pod_named(cluster, "a").uid)

    def reported(cluster: Cluster, state: State, attempt: int = 0) -> Cluster:
        outcome = ContainerReport(attempt, state, at=NOW)
        run_report = RunReport(netns, ProcessId(7, 1), "main", outcome)
        return cluster.with_changes(program_reports(cluster, [run_report], 0.0))

    ended = reported(cluster, "exited")
    assert reported(ended, "running") is ended
    again = reported(ended, "running", 1).get(PodRuntimeStatus, "default", "a")
    assert again is not None
    assert (again.containers["main"].attempt, again.containers["main"].state) == (1, "running")


REPORTS: list[tuple[int, State]] = [(0, "running"), (0, "exited"), (1, "running"), (1, "exited")]


@pytest.mark.parametrize("order", list(itertools.permutations(REPORTS)), ids=str)
def test_the_order_of_reports_does_not_matter(order: Sequence[tuple[int, State]]) -> None:
    """The latest run counts, and a run that has ended does not run again."""
    cluster = store(pod("a"))
    netns = pod_netns("default", "a", pod_named(cluster, "a").uid)
    for attempt, state in order:
        outcome = ContainerReport(attempt, state, attempt)
        run_report = RunReport(netns, ProcessId(7, 1), "main", outcome)
        cluster = cluster.with_changes(program_reports(cluster, [run_report], 0.0))
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    assert runtime.containers["main"] == ContainerReport(1, "exited", 1)
