"""Kills of containers whose probes or postStart hooks fail."""

from __future__ import annotations

from msgspec import structs

from kubenetlab.api.lab import PodRuntimeStatus, ProbeKind, ProbeReport, Termination
from kubenetlab.api.store import Cluster
from tests.clusters import (
    NOW,
    pod_named,
    running,
    settled,
    store,
)
from tests.unit.controllers.lifecycle import (
    PRE_STOP,
    active_probes,
    during_post_start,
    hook_ended,
    manifest,
    pod_exists,
    reasons,
    runs_of,
    signalled,
    terminating,
)

LIVE = "livenessProbe: {httpGet: {port: 8080}}"


def failing(
    cluster: Cluster, kind: ProbeKind = "liveness", *, failures: int = 3, now: float = NOW
) -> Cluster:
    """Return the store after `count` consecutive failures of a probe of the first container."""
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    attempt = pod_named(cluster, "a").status.container_statuses[0].restart_count
    report = ProbeReport(attempt, kind, failures == 0, "refused", at=now, failures=failures)
    return settled(
        cluster.with_changes(
            [structs.replace(runtime, probes={**runtime.probes, f"c0/{kind}": report})]
        ),
        now,
    )


def restarts(cluster: Cluster) -> int:
    return pod_named(cluster, "a").status.container_statuses[0].restart_count


def test_a_failed_probe_kills_a_container_after_its_pre_stop_hook() -> None:
    """Until then it serves and is probed for readiness only; a recovered probe does not save it."""
    assert restarts(failing(running(store(manifest(LIVE))))) == 1  # without a hook at once
    cluster = failing(running(store(manifest(f"{LIVE}, {PRE_STOP}"))))
    assert restarts(cluster) == 0
    assert [(spec.kind, spec.attempt) for spec in active_probes(cluster)] == [
        ("readiness", 0),
        ("preStop", 0),
    ]
    assert signalled(cluster) == {"c0": False}
    assert ("Killing", "Container c0 failed liveness probe, will be restarted") in reasons(cluster)
    cluster = failing(cluster, failures=0, now=NOW + 1)
    assert [spec.kind for spec in active_probes(cluster)] == ["readiness", "preStop"]
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    (status,) = pod_named(cluster, "a").status.container_statuses
    ended = status.last_state.terminated
    assert status.restart_count == 1
    assert ended is not None
    assert (ended.message, ended.exit_code) == ("Liveness probe failed: refused", 137)
    assert [(spec.kind, spec.attempt) for spec in active_probes(cluster)] == [("readiness", 1)]
    assert [run.attempt for run in runs_of(cluster)] == [1]
    assert not [kill for termination in cluster.all(Termination) for kill in termination.killed]
    assert (
        reasons(cluster).count(("Killing", "Container c0 failed liveness probe, will be restarted"))
        == 1
    )


def test_the_grace_period_ends_the_hook_of_a_killed_container() -> None:
    """A failed hook does not save the container; with a grace period of 0 no hook runs."""
    text = manifest(f"{LIVE}, {PRE_STOP}", more=", terminationGracePeriodSeconds: 7")
    cluster = failing(running(store(text)))
    assert restarts(settled(cluster, NOW + 6)) == 0
    assert restarts(settled(cluster, NOW + 7)) == 1
    cluster = hook_ended(cluster, "preStop", ok=False, message="no such host", now=NOW + 1)
    assert restarts(cluster) == 1
    assert ("FailedPreStopHook", "PreStopHook failed: no such host") in reasons(cluster)
    hook = PRE_STOP.replace("sleep: {seconds: 5}", "exec: {command: [a]}")
    no_grace = manifest(f"{LIVE}, {hook}", more=", terminationGracePeriodSeconds: 0")
    assert restarts(failing(running(store(no_grace)))) == 1


def test_a_failed_post_start_hook_is_followed_by_the_pre_stop_hook() -> None:
    """The container is killed when the preStop hook has ended."""
    both = "lifecycle: {postStart: {httpGet: {port: 8080}}, preStop: {sleep: {seconds: 5}}}"
    cluster = hook_ended(
        during_post_start(manifest(both)), "postStart", ok=False, message="refused"
    )
    assert restarts(cluster) == 0
    assert [spec.kind for spec in active_probes(cluster)] == ["preStop"]
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    assert restarts(cluster) == 1


def test_a_pod_deleted_while_a_container_is_killed_runs_the_hook_once() -> None:
    """Its container is not started again."""
    cluster = failing(running(store(manifest(f"{LIVE}, {PRE_STOP}"))))
    cluster = terminating(cluster)
    assert [spec.kind for spec in active_probes(cluster)] == ["preStop"]
    assert not pod_exists(hook_ended(cluster, "preStop", now=NOW + 5))
