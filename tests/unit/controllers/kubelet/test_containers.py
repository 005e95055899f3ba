"""Container statuses: start order, ends of runs, and restarts."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.lab import ContainerReport, PodRuntimeStatus, ProbeReport
from kubenetlab.api.pods import ContainerStatus, Pod
from kubenetlab.api.store import Cluster
from kubenetlab.cli.describe.cells import pod_status
from kubenetlab.cli.describe.columns import columns
from kubenetlab.datapath import plan, plan_probes
from kubenetlab.datapath.decisions import decide
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.programs import ProgramRun
from tests.clusters import NOW, pod, pod_named, problems_of, running, settled, store

ORDERED = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  %s
  initContainers:
  - {name: first, image: busybox}
  - name: proxy
    image: envoy
    restartPolicy: Always
    ports: [{containerPort: 15001}]
    startupProbe: {tcpSocket: {port: 15001}}
  - {name: last, image: agnhost, args: [connect, "127.0.0.1:15001"]}
  containers:
  - {name: main, image: agnhost, args: [netexec]}
"""


def with_dns(text: str) -> Cluster:
    """Return the store once DNS runs, because one-shot programs wait for it."""
    cluster = store(text)
    return running(
        cluster, only=[pod.name for pod in cluster.all(Pod) if pod.namespace == "kube-system"]
    )


def reported(cluster: Cluster, *, now: float = NOW, **reports: ContainerReport) -> Cluster:
    """Return the store with a sandbox and these container reports of the pod `a`."""
    pod_ = pod_named(cluster, "a")
    runtime = cluster.get(PodRuntimeStatus, "default", "a") or PodRuntimeStatus(
        pod_.metadata, pod_.uid, sandbox_pid=20
    )
    return settled(
        cluster.with_changes(
            [structs.replace(runtime, containers={**runtime.containers, **reports})]
        ),
        now,
    )


def probed(
    cluster: Cluster,
    container: str,
    kind: str,
    *,
    ok: bool = True,
    failures: int = 0,
    attempt: int = 0,
    now: float = NOW,
) -> Cluster:
    known = cluster.get(PodRuntimeStatus, "default", "a")
    assert known is not None
    report = ProbeReport(attempt, kind, ok, "" if ok else "refused", now, failures)  # type: ignore[arg-type]
    return settled(
        cluster.with_changes(
            [structs.replace(known, probes={**known.probes, f"{container}/{kind}": report})]
        ),
        now,
    )


def states(cluster: Cluster) -> dict[str, str]:
    """Return the state of each container as one word."""

    def word(status: ContainerStatus) -> str:
        state = status.state
        if state.terminated is not None:
            return f"ended {state.terminated.exit_code}"
        return (
            "running"
            if state.running is not None
            else state.waiting.reason
            if state.waiting is not None
            else ""
        )

    return {status.name: word(status) for status in pod_named(cluster, "a").container_statuses}


def planned_programs(cluster: Cluster) -> dict[str, str]:
    decisions = decide(cluster, has_br_netfilter=True)
    return {
        obj.container: obj.program
        for obj in plan(cluster, decisions).objects()
        if isinstance(obj, ProgramRun) and "/a/" in obj.netns
    }


def active_probes(cluster: Cluster) -> set[tuple[str, str]]:
    """Return (container, kind) of the pod's active probes."""
    decisions = decide(cluster, has_br_netfilter=True)
    return {
        (spec.container, spec.kind)
        for specs in plan_probes(cluster, decisions, PlanCache()).values()
        for spec in specs
        if "/a/" in spec.netns
    }


DONE, RUNNING = ContainerReport(0, "exited", 0, at=NOW), ContainerReport(0, "running", at=NOW)


def test_init_containers_run_one_after_the_other() -> None:
    """Each waits for the previous one's success, or a sidecar's start; app containers are last."""
    cluster = reported(with_dns(ORDERED % ""))
    assert states(cluster) == {
        "first": "ContainerCreating",
        "proxy": "PodInitializing",
        "last": "PodInitializing",
        "main": "PodInitializing",
    }
    assert planned_programs(cluster) == {"first": "done"}
    cluster = reported(cluster, first=DONE)
    assert states(cluster)["proxy"] == "ContainerCreating"
    cluster = reported(cluster, proxy=RUNNING)
    assert (states(cluster)["proxy"], states(cluster)["last"]) == ("running", "PodInitializing")
    assert active_probes(cluster) == {("proxy", "startup")}
    cluster = probed(cluster, "proxy", "startup")
    assert states(cluster)["last"] == "ContainerCreating"
    assert planned_programs(cluster) == {"proxy": "default", "last": "connect"}
    assert active_probes(cluster) == {("proxy", "readiness")}
    cluster = reported(cluster, last=DONE)
    assert states(cluster) == {
        "first": "ended 0",
        "proxy": "running",
        "last": "ended 0",
        "main": "ContainerCreating",
    }
    cluster = probed(
        probed(reported(cluster, main=RUNNING), "main", "readiness"), "proxy", "readiness"
    )
    pod_ = pod_named(cluster, "a")
    assert (pod_.status.phase, pod_.is_ready) == ("Running", True)
    assert planned_programs(cluster) == {"proxy": "default", "main": "netexec"}


def test_a_sidecar_counts_for_readiness_and_restarts_beside_the_app_containers() -> None:
    """It restarts whatever the pod's restartPolicy is, and the app containers go on meanwhile."""
    cluster = reported(with_dns(ORDERED % "restartPolicy: Never"), first=DONE, proxy=RUNNING)
    cluster = reported(probed(cluster, "proxy", "startup"), last=DONE)
    cluster = probed(reported(cluster, main=RUNNING), "main", "readiness")
    assert not pod_named(cluster, "a").is_ready
    cluster = reported(cluster, proxy=ContainerReport(0, "exited", 0, at=NOW))
    assert states(cluster)["proxy"] == "ContainerCreating"
    assert states(cluster)["main"] == "running"
    cluster = reported(cluster, main=ContainerReport(0, "exited", 0, at=NOW))
    assert pod_named(cluster, "a").status.phase == "Succeeded"  # the sidecar ends with the pod


@pytest.mark.parametrize(
    ("policy", "phase", "state"),
    [
        ("Never", "Failed", "ended 1"),
        ("OnFailure", "Pending", "ContainerCreating"),
        ("Always", "Pending", "ContainerCreating"),
    ],
)
def test_a_failed_init_container_stops_the_start(policy: str, phase: str, state: str) -> None:
    """The pod fails or the container is restarted; no later container starts."""
    cluster = reported(
        with_dns(ORDERED % f"restartPolicy: {policy}"),
        first=ContainerReport(0, "exited", 1, "no", NOW),
    )
    pod_ = pod_named(cluster, "a")
    assert (pod_.status.phase, states(cluster)["first"], states(cluster)["main"]) == (
        phase,
        state,
        "PodInitializing",
    )


def test_a_new_sandbox_runs_the_init_containers_again() -> None:
    """All containers of the old sandbox are lost with it."""
    cluster = reported(with_dns(ORDERED % ""), first=DONE, proxy=RUNNING)
    cluster = reported(probed(cluster, "proxy", "startup"), last=DONE)
    cluster = reported(cluster, main=RUNNING)
    pod_ = pod_named(cluster, "a")
    cluster = settled(cluster.with_changes([PodRuntimeStatus(pod_.metadata, pod_.uid)]))
    assert states(cluster) == {
        "first": "ContainerCreating",
        "proxy": "PodInitializing",
        "last": "PodInitializing",
        "main": "PodInitializing",
    }
    condition = pod_named(cluster, "a").status.condition("Initialized")
    assert condition is not None
    assert (condition.status, condition.message) == (
        "False",
        "containers with incomplete status: [first proxy last]",
    )


STARTUP = pod(
    "a",
    container=", startupProbe: {tcpSocket: {port: 8080}, failureThreshold: 2}, "
    "readinessProbe: {tcpSocket: {port: 8080}}, livenessProbe: {tcpSocket: {port: 8080}}",
)


def test_no_other_probe_runs_until_the_startup_probe_succeeds() -> None:
    """Until then the container is neither started nor ready; afterwards the startup probe stops."""
    cluster = reported(with_dns(STARTUP), main=RUNNING)
    assert active_probes(cluster) == {("main", "startup")}
    (status,) = pod_named(cluster, "a").status.container_statuses
    assert (status.started, status.ready) == (False, False)
    cluster = probed(cluster, "main", "startup")
    assert active_probes(cluster) == {("main", "readiness"), ("main", "liveness")}
    (status,) = pod_named(probed(cluster, "main", "readiness"), "a").status.container_statuses
    assert (status.started, status.ready) == (True, True)


def test_a_failed_startup_probe_kills_the_container() -> None:
    """The status has the probe's message, and the next run is probed again."""
    cluster = probed(
        reported(with_dns(STARTUP), main=RUNNING), "main", "startup", ok=False, failures=1
    )
    assert states(cluster)["main"] == "running"
    cluster = probed(cluster, "main", "startup", ok=False, failures=2)
    (status,) = pod_named(cluster, "a").status.container_statuses
    assert status.last_state.terminated is not None
    assert (status.restart_count, status.last_state.terminated.message) == (
        1,
        "Startup probe failed: refused",
    )


def test_an_init_container_has_no_probes() -> None:
    """Only a sidecar may have probes."""
    problems = problems_of(
        ORDERED.replace("image: busybox", "image: busybox, readinessProbe: {tcpSocket: {port: 1}}")
        % ""
    )
    assert [problem.message for problem in problems] == [
        "may not be set for init containers without restartPolicy: Always"
    ]


@pytest.mark.parametrize(
    ("init", "word"),
    [
        ([{"name": "b", "state": {"running": {}}}], "Init:0/2"),
        (
            [
                {"name": "b", "state": {"terminated": {"exitCode": 0}}},
                {"name": "c", "state": {"waiting": {"reason": "PodInitializing"}}},
            ],
            "Init:1/2",
        ),
        (
            [{"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
            "Init:CrashLoopBackOff",
        ),
        (
            [{"name": "b", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
            "Init:Error",
        ),
        (
            [
                {"name": "b", "state": {"terminated": {"exitCode": 0}}},
                {"name": "c", "started": True, "ready": True, "state": {"running": {}}},
            ],
            "Running",
        ),
    ],
)
def test_the_status_column_counts_init_containers(init: list[dict[str, object]], word: str) -> None:
    """It counts them as kubectl does; a started sidecar counts as done."""
    spec = {
        "initContainers": [{"name": "b"}, {"name": "c", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}],
    }
    main = {
        "name": "a",
        "ready": word == "Running",
        "state": {"running": {}}
        if word == "Running"
        else {"waiting": {"reason": "PodInitializing"}},
    }
    document = {
        "metadata": {"name": "p"},
        "spec": spec,
        "status": {"phase": "Running", "initContainerStatuses": init, "containerStatuses": [main]},
    }
    _, ready, *_ = columns("Pod", document, is_wide=False)
    assert pod_status(document) == word
    assert ready == ("2/2" if word == "Running" else "0/2")
