"""Start and termination of containers: hooks, SIGTERM, probes and the grace period."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.core import Event
from kubenetlab.api.lab import (
    ContainerReport,
    HookKind,
    PodRuntimeStatus,
    ProbeKind,
    ProbeReport,
    Termination,
)
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.termination import terminated
from kubenetlab.datapath import plan_probes
from kubenetlab.datapath.hooks import slept_s
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.programs import ProgramRun
from tests.clusters import (
    NOW,
    ONLINK,
    observed,
    pod_named,
    problems_of,
    running,
    service,
    settled,
    slices,
    store,
)
from tests.unit.datapath.test_plan import planned

PRE_STOP = "lifecycle: {preStop: {sleep: {seconds: 5}}}"
POST_START = "lifecycle: {postStart: {httpGet: {port: 8080}}}"
READY = "readinessProbe: {httpGet: {port: 8080}}"
REAL = ', annotations: {kubenetlab.dev/real-commands: "true"}'


def manifest(*containers: str, meta: str = "", more: str = "") -> str:
    listed = ", ".join(
        f"{{name: c{index}, image: agnhost, args: [netexec], {fields}}}"
        for index, fields in enumerate(containers)
    )
    return (
        f"apiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: a, labels: {{app: web}}{meta}}}\n"
        f"spec: {{containers: [{listed}]{more}}}\n---\n"
    )


def going(cluster: Cluster, *, grace_s: int | None = None) -> Cluster:
    """Return the store once the pod is terminating and no node's rules refer to it."""
    found = pod_named(cluster, "a")
    if grace_s is not None:
        found = structs.replace(
            found, spec=structs.replace(found.spec, termination_grace_period_seconds=grace_s)
        )
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    return settled(
        cluster.with_changes([*terminated(found, NOW), structs.replace(seen, is_detached=True)])
    )


def hook_ended(
    cluster: Cluster,
    kind: HookKind,
    *,
    ok: bool = True,
    message: str = "",
    container: str = "c0",
    now: float = NOW,
) -> Cluster:
    """Return the store once a hook has ended."""
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    report = ProbeReport(0, kind, ok, message, at=now)
    return settled(
        cluster.with_changes(
            [structs.replace(seen, probes={**seen.probes, f"{container}/{kind}": report})]
        ),
        now,
    )


def before_hook(text: str) -> Cluster:
    """Return the store once the first container runs and its postStart hook has not ended."""
    cluster = running(store(text), only=())
    first = PodRuntimeStatus(
        pod_named(cluster, "a").metadata,
        pod_named(cluster, "a").uid,
        20,
        containers={"c0": ContainerReport(0, "running")},
    )
    return settled(
        cluster.with_changes(
            [structs.replace(first, metadata=ObjectMeta(name="a", namespace="default"))]
        )
    )


def is_there(cluster: Cluster) -> bool:
    return cluster.get(Pod, "default", "a") is not None


def asked(cluster: Cluster) -> list[ProbeSpec]:
    return [
        spec
        for specs in plan_probes(cluster, ONLINK, PlanCache()).values()
        for spec in specs
        if spec.netns.startswith("pod/default/a")
    ]


def runs_of(cluster: Cluster) -> list[ProgramRun]:
    """Return the programs of the pod."""
    found = [
        obj
        for contents in planned(cluster).namespaces.values()
        for obj in contents.values()
        if isinstance(obj, ProgramRun)
    ]
    return [run for run in found if run.netns.startswith("pod/default/a")]


def runs(cluster: Cluster) -> dict[str, bool]:
    """Return running program → True if it has received SIGTERM."""
    return {run.container: run.is_stopping for run in runs_of(cluster)}


def reasons(cluster: Cluster) -> list[tuple[str, str]]:
    return [
        (event.reason, event.message)
        for event in cluster.all(Event)
        if event.involved_object.name == "a"
    ]


def test_a_pod_exists_until_its_pre_stop_hook_has_ended() -> None:
    """A pod without a hook is removed as soon as no rule refers to it."""
    assert not is_there(going(running(store(manifest("")))))
    cluster = going(running(store(manifest(PRE_STOP))))
    assert is_there(cluster)
    assert [(spec.kind, spec.method, spec.delay_s) for spec in asked(cluster)] == [
        ("preStop", "sleep", 5.0)
    ]
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    assert not is_there(cluster)
    assert not cluster.all(Termination)


def test_a_process_gets_sigterm_when_its_hook_has_ended() -> None:
    """A container without a hook gets it at once; both are waited for."""
    text = manifest(f"command: [sleep, '1'], {PRE_STOP}", "command: [sleep, '2']", meta=REAL)
    cluster = running(store(text))
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    processes = {
        name: structs.replace(run, is_process=True) for name, run in seen.containers.items()
    }
    cluster = going(settled(cluster.with_changes([structs.replace(seen, containers=processes)])))
    assert runs(cluster) == {"c0": False}
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    assert runs(cluster) == {}
    assert is_there(cluster)
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    ended = {
        name: structs.replace(run, state="exited", exit_code=143, at=NOW + 6)
        for name, run in seen.containers.items()
    }
    one = settled(
        cluster.with_changes(
            [structs.replace(seen, containers={**seen.containers, "c0": ended["c0"]})]
        ),
        NOW + 6,
    )
    assert (
        pod_named(one, "a").status.container_statuses[0].state.terminated is not None
    )  # and it is not started again
    assert not is_there(
        settled(one.with_changes([structs.replace(seen, containers=ended)]), NOW + 6)
    )


def test_the_grace_period_ends_hooks_too() -> None:
    """A hook that takes all of it leaves 2 seconds; with a grace period of 0 no hook runs."""
    cluster = going(running(store(manifest(PRE_STOP))), grace_s=10)
    assert runs(settled(cluster, NOW + 9)) == {"c0": False}
    assert not is_there(
        settled(cluster, NOW + 10)
    )  # the built-in program has no end to be waited for
    process = structs.replace(
        observed(pod_named(cluster, "a")),
        is_detached=True,
        containers={"c0": ContainerReport(0, "running", is_process=True)},
    )
    cluster = settled(cluster.with_changes([process]))
    assert is_there(settled(cluster, NOW + 11))
    assert not is_there(settled(cluster, NOW + 12))
    assert not is_there(going(running(store(manifest(PRE_STOP))), grace_s=0))


def test_a_failed_pre_stop_hook_is_only_reported() -> None:
    """The pod is removed all the same."""
    cluster = running(store(manifest(f"{PRE_STOP}", PRE_STOP)))
    cluster = hook_ended(going(cluster), "preStop", ok=False, message="no such host")
    assert ("FailedPreStopHook", "PreStopHook failed: no such host") in reasons(cluster)
    assert is_there(cluster)
    assert not is_there(hook_ended(cluster, "preStop", container="c1"))


def test_readiness_is_probed_until_the_end() -> None:
    """Liveness and startup probes stop, as does the implied readiness probe."""
    text = manifest(f"{READY}, livenessProbe: {{tcpSocket: {{port: 8080}}}}, {PRE_STOP}", PRE_STOP)
    cluster = running(store(text))
    assert sorted((spec.container, spec.kind) for spec in asked(cluster)) == [
        ("c0", "liveness"),
        ("c0", "readiness"),
        ("c1", "readiness"),
    ]
    cluster = going(cluster)
    assert sorted((spec.container, spec.kind) for spec in asked(cluster)) == [
        ("c0", "preStop"),
        ("c0", "readiness"),
        ("c1", "preStop"),
    ]
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    late = {**seen.probes, "c0/liveness": ProbeReport(0, "liveness", False, "refused", failures=9)}
    assert runs(settled(cluster.with_changes([structs.replace(seen, probes=late)]))) == {
        "c0": False,
        "c1": False,
    }


@pytest.mark.parametrize(("ok", "serving"), [(True, True), (False, False)])
def test_a_terminating_endpoint_serves_while_it_is_ready(ok: bool, serving: bool) -> None:
    """When it is unready after SIGTERM, terminating stays true and serving becomes false."""
    cluster = going(running(store(manifest(f"{READY}, {PRE_STOP}") + service())))
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    probes = {
        **seen.probes,
        "c0/readiness": ProbeReport(0, "readiness", ok, failures=0 if ok else 3),
    }
    cluster = settled(cluster.with_changes([structs.replace(seen, probes=probes)]))
    (endpoint,) = [endpoint for piece in slices(cluster) for endpoint in piece.endpoints]
    conditions = endpoint.conditions
    assert (conditions.ready, conditions.serving, conditions.terminating) == (False, serving, True)


def test_a_delayed_shutdown_is_waited_for() -> None:
    """agnhost netexec --delay-shutdown serves on after SIGTERM, within the grace period."""
    text = manifest("").replace("[netexec]", "[netexec, --delay-shutdown=5]")
    cluster = running(store(text))
    assert runs(cluster) == {"c0": False}
    serving = structs.replace(
        observed(pod_named(cluster, "a")),
        containers={"c0": ContainerReport(0, "running", ends_later=True)},
    )
    cluster = going(settled(cluster.with_changes([serving])))
    assert runs(cluster) == {"c0": True}
    assert is_there(settled(cluster, NOW + 29))
    assert not is_there(settled(cluster, NOW + 30))
    ended = structs.replace(
        serving, is_detached=True, containers={"c0": ContainerReport(0, "exited", ends_later=True)}
    )
    assert not is_there(settled(cluster.with_changes([ended])))


def test_a_container_runs_when_its_post_start_hook_has_ended() -> None:
    """Until then it is not probed, and the next container does not start."""
    cluster = before_hook(manifest(f"{POST_START}, {READY}", ""))
    states = [status.state for status in pod_named(cluster, "a").status.container_statuses]
    assert [state.waiting.reason if state.waiting else "" for state in states] == [
        "ContainerCreating",
        "PodInitializing",
    ]
    assert [(spec.container, spec.kind, spec.method, spec.port) for spec in asked(cluster)] == [
        ("c0", "postStart", "http", 8080)
    ]
    assert pod_named(cluster, "a").status.phase == "Pending"
    assert list(runs(cluster)) == ["c0"]
    cluster = running(hook_ended(cluster, "postStart"))
    assert [
        status.state.running is not None
        for status in pod_named(cluster, "a").status.container_statuses
    ] == [True, True]
    assert pod_named(cluster, "a").is_ready
    assert [(spec.container, spec.kind) for spec in asked(cluster)] == [
        ("c0", "readiness"),
        ("c1", "readiness"),
    ]


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_a_failed_post_start_hook_kills_the_container(policy: str) -> None:
    """The event is FailedPostStartHook; the container restarts as restartPolicy says."""
    cluster = before_hook(manifest(POST_START, more=f", restartPolicy: {policy}"))
    cluster = hook_ended(cluster, "postStart", ok=False, message="connection refused")
    (status,) = pod_named(cluster, "a").status.container_statuses
    ended = status.last_state.terminated or status.state.terminated
    assert ended is not None
    assert (ended.exit_code, ended.message) == (137, "PostStartHook failed: connection refused")
    assert ("FailedPostStartHook", "PostStartHook failed: connection refused") in reasons(cluster)
    assert ("Killing", "FailedPostStartHook") in reasons(cluster)
    assert status.restart_count == (policy == "Always")
    assert pod_named(cluster, "a").status.phase == ("Failed" if policy == "Never" else "Running")
    assert list(runs(cluster)) == (["c0"] if policy == "Always" else [])


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

    def said(container: str, more: str = "") -> list[tuple[str, str]]:
        return [
            (problem.path, problem.message)
            for problem in problems_of(manifest(container, more=more))
        ]

    here = "spec.containers[0].lifecycle"
    assert said("lifecycle: {preStop: {}}") == [
        (f"{here}.preStop", "required: one of exec, httpGet, sleep, tcpSocket")
    ]
    assert said("lifecycle: {preStop: {exec: {command: [a]}, sleep: {seconds: 1}}}") == [
        (f"{here}.preStop.sleep", "not allowed beside exec: a hook does one thing")
    ]
    assert said(
        "lifecycle: {preStop: {sleep: {seconds: 9}}}", ", terminationGracePeriodSeconds: 5"
    ) == [
        (
            f"{here}.preStop.sleep.seconds",
            "wanted at most terminationGracePeriodSeconds (5), found 9",
        )
    ]
    assert said("lifecycle: {postStart: {tcpSocket: {port: 80}}}") == [
        (
            f"{here}.postStart.tcpSocket",
            "Kubernetes accepts this hook and cannot run it: it always fails",
        )
    ]
    init = f", initContainers: [{{name: i, image: busybox, {PRE_STOP}}}]"
    assert said("", init) == [
        (
            "spec.initContainers[0].lifecycle",
            "may not be set for init containers without restartPolicy: Always",
        )
    ]


LIVE = "livenessProbe: {httpGet: {port: 8080}}"


def failing(
    cluster: Cluster, kind: ProbeKind = "liveness", *, failures: int = 3, now: float = NOW
) -> Cluster:
    """Return the store after `count` consecutive failures of a probe of the first container."""
    seen = cluster.get(PodRuntimeStatus, "default", "a")
    assert seen is not None
    attempt = pod_named(cluster, "a").status.container_statuses[0].restart_count
    report = ProbeReport(attempt, kind, failures == 0, "refused", at=now, failures=failures)
    return settled(
        cluster.with_changes([structs.replace(seen, probes={**seen.probes, f"c0/{kind}": report})]),
        now,
    )


def restarts(cluster: Cluster) -> int:
    return pod_named(cluster, "a").status.container_statuses[0].restart_count


def test_a_failed_probe_kills_a_container_after_its_pre_stop_hook() -> None:
    """Until then it serves and is probed for readiness only; a recovered probe does not save it."""
    assert restarts(failing(running(store(manifest(LIVE))))) == 1  # without a hook at once
    cluster = failing(running(store(manifest(f"{LIVE}, {PRE_STOP}"))))
    assert restarts(cluster) == 0
    assert [(spec.kind, spec.attempt) for spec in asked(cluster)] == [
        ("readiness", 0),
        ("preStop", 0),
    ]
    assert runs(cluster) == {"c0": False}
    assert ("Killing", "Container c0 failed liveness probe, will be restarted") in reasons(cluster)
    cluster = failing(cluster, failures=0, now=NOW + 1)
    assert [spec.kind for spec in asked(cluster)] == ["readiness", "preStop"]
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    (status,) = pod_named(cluster, "a").status.container_statuses
    ended = status.last_state.terminated
    assert status.restart_count == 1
    assert ended is not None
    assert (ended.message, ended.exit_code) == ("Liveness probe failed: refused", 137)
    assert [(spec.kind, spec.attempt) for spec in asked(cluster)] == [("readiness", 1)]
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
    cluster = hook_ended(before_hook(manifest(both)), "postStart", ok=False, message="refused")
    assert restarts(cluster) == 0
    assert [spec.kind for spec in asked(cluster)] == ["preStop"]
    cluster = hook_ended(cluster, "preStop", now=NOW + 5)
    assert restarts(cluster) == 1


def test_a_pod_deleted_while_a_container_is_killed_runs_the_hook_once() -> None:
    """Its container is not started again."""
    cluster = failing(running(store(manifest(f"{LIVE}, {PRE_STOP}"))))
    cluster = going(cluster)
    assert [spec.kind for spec in asked(cluster)] == ["preStop"]
    assert not is_there(hook_ended(cluster, "preStop", now=NOW + 5))
