"""Pods with lifecycle hooks, for the tests of their start and termination."""

from __future__ import annotations

from msgspec import structs

from kubenetlab.api.core import Event
from kubenetlab.api.lab import ContainerReport, HookKind, PodRuntimeStatus, ProbeReport
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath import plan_probes
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.programs import ProgramRun
from tests.clusters import (
    NOW,
    ONLINK,
    pod_named,
    running,
    settled,
    store,
)
from tests.unit.datapath.plans import planned

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


def terminating(cluster: Cluster, *, grace_s: int | None = None) -> Cluster:
    """Return the store once the pod is terminating and no node's rules refer to it."""
    pod_ = pod_named(cluster, "a")
    if grace_s is not None:
        pod_ = structs.replace(
            pod_, spec=structs.replace(pod_.spec, termination_grace_period_seconds=grace_s)
        )
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    return settled(
        cluster.with_changes(
            [*deletion_changes(pod_, NOW), structs.replace(runtime, is_detached=True)]
        )
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
    runtime = cluster.get(PodRuntimeStatus, "default", "a")
    assert runtime is not None
    report = ProbeReport(0, kind, ok, message, at=now)
    return settled(
        cluster.with_changes(
            [structs.replace(runtime, probes={**runtime.probes, f"{container}/{kind}": report})]
        ),
        now,
    )


def during_post_start(text: str) -> Cluster:
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


def pod_exists(cluster: Cluster) -> bool:
    return cluster.get(Pod, "default", "a") is not None


def active_probes(cluster: Cluster) -> list[ProbeSpec]:
    return [
        spec
        for specs in plan_probes(cluster, ONLINK, PlanCache()).values()
        for spec in specs
        if spec.netns.startswith("pod/default/a")
    ]


def runs_of(cluster: Cluster) -> list[ProgramRun]:
    """Return the programs of the pod."""
    programs = [
        obj
        for contents in planned(cluster).namespaces.values()
        for obj in contents.values()
        if isinstance(obj, ProgramRun)
    ]
    return [run for run in programs if run.netns.startswith("pod/default/a")]


def signalled(cluster: Cluster) -> dict[str, bool]:
    """Return running program → True if it has received SIGTERM."""
    return {run.container: run.is_stopping for run in runs_of(cluster)}


def reasons(cluster: Cluster) -> list[tuple[str, str]]:
    return [
        (event.reason, event.message)
        for event in cluster.all(Event)
        if event.involved_object.name == "a"
    ]
