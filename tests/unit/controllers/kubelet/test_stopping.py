"""Start and termination of containers: hooks, SIGTERM, probes and the grace period."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.lab import ContainerReport, PodRuntimeStatus, ProbeReport, Termination
from kubenetlab.datapath.hooks import slept_s
from tests.clusters import (
    NOW,
    observed,
    pod_named,
    problems_of,
    running,
    service,
    settled,
    slices,
    store,
)
from tests.unit.controllers.lifecycle import (
    POST_START,
    PRE_STOP,
    READY,
    REAL,
    active_probes,
    during_post_start,
    hook_ended,
    manifest,
    pod_exists,
    reasons,
    signalled,
    terminating,
)


def test_a_pod_exists_until_its_pre_stop_hook_has_ended() -> None:
    """A pod without a hook is removed as soon as no rule refers to it."""
    assert not pod_exists(terminating(running(store(manifest("")))))
    cluster = terminating(running(store(manifest(PRE_STOP))))
    assert pod_exists(cluster)
    assert [(spec.kind, spec.method, spec.delay_s) for spec in active_probes(cluster)] == [
        ("preStop", "sleep", 5.0)
    ]
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    assert not pod_exists(cluster)
    assert not cluster.all(Termination)


def test_a_process_gets_sigterm_when_its_hook_has_ended() -> None:
    """A container without a hook gets it at once; both are waited for."""
    text = manifest(f"command: [sleep, '1'], {PRE_STOP}", "command: [sleep, '2']", meta=REAL)
    cluster = running(store(text))
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    processes = {
        name: structs.replace(run, is_process=True) for name, run in runtime.containers.items()
    }
    cluster = terminating(
        settled(cluster.with_changes([structs.replace(runtime, containers=processes)]))
    )
    assert signalled(cluster) == {"c0": False}
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    assert signalled(cluster) == {}
    assert pod_exists(cluster)
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    ended = {
        name: structs.replace(run, state="exited", exit_code=143, at=NOW + 6)
        for name, run in runtime.containers.items()
    }
    first_ended = settled(
        cluster.with_changes(
            [structs.replace(runtime, containers={**runtime.containers, "c0": ended["c0"]})]
        ),
        NOW + 6,
    )
    assert (
        pod_named(first_ended, "a").status.container_statuses[0].state.terminated is not None
    )  # it does not restart
    assert not pod_exists(
        settled(first_ended.with_changes([structs.replace(runtime, containers=ended)]), NOW + 6)
    )


def test_the_grace_period_ends_hooks_too() -> None:
    """A hook that takes all of it leaves 2 seconds; with a grace period of 0 no hook runs."""
    cluster = terminating(running(store(manifest(PRE_STOP))), grace_s=10)
    assert signalled(settled(cluster, NOW + 9)) == {"c0": False}
    assert not pod_exists(settled(cluster, NOW + 10))  # a built-in program ends at once
    process = structs.replace(
        observed(pod_named(cluster, "a")),
        is_detached=True,
        containers={"c0": ContainerReport(0, "running", is_process=True)},
    )
    cluster = settled(cluster.with_changes([process]))
    assert pod_exists(settled(cluster, NOW + 11))
    assert not pod_exists(settled(cluster, NOW + 12))
    assert not pod_exists(terminating(running(store(manifest(PRE_STOP))), grace_s=0))


def test_a_failed_pre_stop_hook_is_only_reported() -> None:
    """The pod is removed all the same."""
    cluster = running(store(manifest(f"{PRE_STOP}", PRE_STOP)))
    cluster = hook_ended(terminating(cluster), "preStop", ok=False, message="no such host")
    assert ("FailedPreStopHook", "PreStopHook failed: no such host") in reasons(cluster)
    assert pod_exists(cluster)
    assert not pod_exists(hook_ended(cluster, "preStop", container="c1"))


def test_readiness_is_probed_until_the_end() -> None:
    """Liveness and startup probes stop, as does the implied readiness probe."""
    text = manifest(f"{READY}, livenessProbe: {{tcpSocket: {{port: 8080}}}}, {PRE_STOP}", PRE_STOP)
    cluster = running(store(text))
    assert sorted((spec.container, spec.kind) for spec in active_probes(cluster)) == [
        ("c0", "liveness"),
        ("c0", "readiness"),
        ("c1", "readiness"),
    ]
    cluster = terminating(cluster)
    assert sorted((spec.container, spec.kind) for spec in active_probes(cluster)) == [
        ("c0", "preStop"),
        ("c0", "readiness"),
        ("c1", "preStop"),
    ]
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    probes = {
        **runtime.probes,
        "c0/liveness": ProbeReport(0, "liveness", False, "refused", failures=9),
    }
    assert signalled(settled(cluster.with_changes([structs.replace(runtime, probes=probes)]))) == {
        "c0": False,
        "c1": False,
    }


@pytest.mark.parametrize(("ok", "serving"), [(True, True), (False, False)])
def test_a_terminating_endpoint_serves_while_it_is_ready(ok: bool, serving: bool) -> None:
    """When it is unready after SIGTERM, terminating stays true and serving becomes false."""
    cluster = terminating(running(store(manifest(f"{READY}, {PRE_STOP}") + service())))
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    probes = {
        **runtime.probes,
        "c0/readiness": ProbeReport(0, "readiness", ok, failures=0 if ok else 3),
    }
    cluster = settled(cluster.with_changes([structs.replace(runtime, probes=probes)]))
    (endpoint,) = [endpoint for slice_ in slices(cluster) for endpoint in slice_.endpoints]
    conditions = endpoint.conditions
    assert (conditions.ready, conditions.serving, conditions.terminating) == (False, serving, True)


def test_a_delayed_shutdown_is_waited_for() -> None:
    """With --delay-shutdown netexec serves on after SIGTERM, within the grace period."""
    text = manifest("").replace("[netexec]", "[netexec, --delay-shutdown=5]")
    cluster = running(store(text))
    assert signalled(cluster) == {"c0": False}
    serving = structs.replace(
        observed(pod_named(cluster, "a")),
        containers={"c0": ContainerReport(0, "running", ends_later=True)},
    )
    cluster = terminating(settled(cluster.with_changes([serving])))
    assert signalled(cluster) == {"c0": True}
    assert pod_exists(settled(cluster, NOW + 29))
    assert not pod_exists(settled(cluster, NOW + 30))
    ended = structs.replace(
        serving, is_detached=True, containers={"c0": ContainerReport(0, "exited", ends_later=True)}
    )
    assert not pod_exists(settled(cluster.with_changes([ended])))


def test_a_container_runs_when_its_post_start_hook_has_ended() -> None:
    """Until then it is not probed, and the next container does not start."""
    cluster = during_post_start(manifest(f"{POST_START}, {READY}", ""))
    states = [status.state for status in pod_named(cluster, "a").status.container_statuses]
    assert [state.waiting.reason if state.waiting else "" for state in states] == [
        "ContainerCreating",
        "PodInitializing",
    ]
    assert [
        (spec.container, spec.kind, spec.method, spec.port) for spec in active_probes(cluster)
    ] == [("c0", "postStart", "http", 8080)]
    assert pod_named(cluster, "a").status.phase == "Pending"
    assert list(signalled(cluster)) == ["c0"]
    cluster = running(hook_ended(cluster, "postStart"))
    assert [
        status.state.running is not None
        for status in pod_named(cluster, "a").status.container_statuses
    ] == [True, True]
    assert pod_named(cluster, "a").is_ready
    assert [(spec.container, spec.kind) for spec in active_probes(cluster)] == [
        ("c0", "readiness"),
        ("c1", "readiness"),
    ]


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_a_failed_post_start_hook_kills_the_container(policy: str) -> None:
    """The event is FailedPostStartHook; the container restarts as restartPolicy says."""
    cluster = during_post_start(manifest(POST_START, more=f", restartPolicy: {policy}"))
    cluster = hook_ended(cluster, "postStart", ok=False, message="connection refused")
    (status,) = pod_named(cluster, "a").status.container_statuses
    ended = status.last_state.terminated or status.state.terminated
    assert ended is not None
    assert (ended.exit_code, ended.message) == (137, "PostStartHook failed: connection refused")
    assert ("FailedPostStartHook", "PostStartHook failed: connection refused") in reasons(cluster)
    assert ("Killing", "FailedPostStartHook") in reasons(cluster)
    assert status.restart_count == (policy == "Always")
    assert pod_named(cluster, "a").status.phase == ("Failed" if policy == "Never" else "Running")
    assert list(signalled(cluster)) == (["c0"] if policy == "Always" else [])


@pytest.mark.parametrize(
    ("command", "slept"),
    [
        (["sleep", "5"], 5.0),
        (["/bin/sleep", "1.5"], 1.5),
        (["sh", "-c", "sleep 10"], 10.0),
        (["/bin/sh", "-c", "sleep 5; nginx -s quit && sleep 2m"], 125.0),
        (["sh", "-c", "echo sleep"], 0.0),
        (["nginx", "-s", "quit"], 0.0),
        (["sleep", "forever"], 0.0),
    ],
)
def test_only_the_sleep_of_a_hook_command_is_modelled(command: list[str], slept: float) -> None:
    """A built-in program has no environment in which a command could run."""
    assert slept_s(command) == slept


def test_invalid_hooks_are_rejected() -> None:
    """One handler each, a sleep within the grace period, none in init containers, no TCP."""

    def problems(container: str, more: str = "") -> list[tuple[str, str]]:
        return [
            (problem.path, problem.message)
            for problem in problems_of(manifest(container, more=more))
        ]

    path = "spec.containers[0].lifecycle"
    assert problems("lifecycle: {preStop: {}}") == [
        (f"{path}.preStop", "required: one of exec, httpGet, sleep, tcpSocket")
    ]
    assert problems("lifecycle: {preStop: {exec: {command: [a]}, sleep: {seconds: 1}}}") == [
        (f"{path}.preStop.sleep", "not allowed beside exec: a hook has one handler")
    ]
    assert problems(
        "lifecycle: {preStop: {sleep: {seconds: 9}}}", ", terminationGracePeriodSeconds: 5"
    ) == [
        (
            f"{path}.preStop.sleep.seconds",
            "expected at most terminationGracePeriodSeconds (5), found 9",
        )
    ]
    assert problems("lifecycle: {postStart: {tcpSocket: {port: 80}}}") == [
        (
            f"{path}.postStart.tcpSocket",
            "Kubernetes accepts this hook, but it always fails",
        )
    ]
    init = f", initContainers: [{{name: i, image: busybox, {PRE_STOP}}}]"
    assert problems("", init) == [
        (
            "spec.initContainers[0].lifecycle",
            "may not be set for init containers without restartPolicy: Always",
        )
    ]
