"""Why a container is killed although its pod goes on: a failed startup or liveness probe, or a failed postStart hook.

A container with a preStop hook runs on until the hook is over, or the grace period is; the others are killed at once.
Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (killContainer), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import structs

from kubenetlab.api.containers import Container
from kubenetlab.api.lab import Kill, PodRuntimeStatus, Termination
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.events import event
from kubenetlab.controllers.stopping import (
    failed_pre_stop_events,
    grace_s,
    runs_pre_stop,
    termination_of,
)
from kubenetlab.controllers.wake import Wake

KILLING_PROBES: Final = ("startup", "liveness")
"""Kinds of probes that kill a container when they fail."""
POST_START_FAILED: Final = "PostStartHook failed"
"""Start of the message of a container that was killed for its postStart hook."""


def kill_of(
    pod: Pod, container: Container, attempt: int, seen: PodRuntimeStatus, known: Mapping[str, Kill]
) -> Kill | None:
    """Return why a run of a container is killed, or None. A terminating pod's containers are not killed by probes.

    known: kills that wait for a preStop hook, by container. A probe that recovers meanwhile does not take them back.
    """
    if (kill := known.get(container.name)) is not None and kill.attempt == attempt:
        return kill
    hook = seen.hook(container.name, "postStart", attempt)
    if hook is not None and not hook.ok:
        return Kill(attempt, f"{POST_START_FAILED}: {hook.message}", hook.at)
    for kind in KILLING_PROBES if not pod.is_terminating else ():
        report = seen.probes.get(f"{container.name}/{kind}")
        probe = container.probe(kind)
        threshold = (probe.failure_threshold or 3) if probe is not None else 0
        if (
            report is not None
            and report.attempt == attempt
            and threshold
            and report.failures >= threshold
        ):
            return Kill(attempt, f"{kind.capitalize()} probe failed: {report.message}", report.at)
    return None


def killed_at(
    pod: Pod, container: Container, kill: Kill, seen: PodRuntimeStatus, now: float
) -> float | None:
    """Return when a run is killed, in seconds of Unix time; None while its preStop hook is waited for."""
    if not runs_pre_stop(pod, container):
        return kill.at
    hook = seen.hook(container.name, "preStop", kill.attempt)
    if hook is not None:
        return hook.at
    limit = kill.at + grace_s(pod)
    return limit if now >= limit else None


def kills_after_hooks(cluster: Cluster, pod: Pod, seen: PodRuntimeStatus | None) -> dict[str, Kill]:
    """Return the kills of a pod's containers that have a preStop hook, by container."""
    if (
        seen is None
        or pod.is_terminating
        or not any(container.lifecycle.pre_stop for container in pod.spec.long_running_containers)
    ):
        return {}
    known = awaited(cluster, pod)
    kills: dict[str, Kill] = {}
    for container in pod.spec.long_running_containers:
        run = seen.containers.get(container.name)
        status = pod.container_status(container.name)
        if (
            run is None
            or run.state != "running"
            or status is None
            or status.restart_count != run.attempt
        ):
            continue
        if (
            runs_pre_stop(pod, container)
            and (kill := kill_of(pod, container, run.attempt, seen, known)) is not None
        ):
            kills[container.name] = kill
    return kills


def awaited(cluster: Cluster, pod: Pod) -> Mapping[str, Kill]:
    """Return the kills that were recorded when their preStop hooks began, by container."""
    termination = termination_of(cluster, pod)
    return termination.killed if termination is not None else {}


def is_kill(message: str) -> bool:
    """Return True for the message of a container that was killed for a failed probe or postStart hook."""
    return message.startswith(POST_START_FAILED) or failed_probe(message) != ""


def failed_probe(message: str) -> str:
    """Return the kind of the probe for whose failure a container was killed, or an empty string."""
    return next(
        (
            kind
            for kind in KILLING_PROBES
            if message.startswith(f"{kind.capitalize()} probe failed")
        ),
        "",
    )


def kill_events(
    cluster: Cluster, pod: Pod, container: str, message: str, now: float
) -> Iterator[Change]:
    """Yield the events that say why a container is killed."""
    source = f"kubelet, {pod.spec.node_name}"
    if kind := failed_probe(message):
        yield event(cluster, pod, "Warning", "Unhealthy", message, source, now)
        killing = f"Container {container} failed {kind} probe, will be restarted"
        yield event(cluster, pod, "Normal", "Killing", killing, source, now)
    else:
        yield event(cluster, pod, "Warning", "FailedPostStartHook", message, source, now)
        yield event(cluster, pod, "Normal", "Killing", "FailedPostStartHook", source, now)


def record_kills(
    cluster: Cluster,
    pod: Pod,
    seen: PodRuntimeStatus,
    kills: Mapping[str, Kill],
    attempts: Mapping[str, int],
    now: float,
) -> Iterator[Change | Wake]:
    """Record the kills whose preStop hooks run, so that they outlive the agent, and when to look again.

    attempts: the run of each container that runs, by container. A kill of an earlier run is over.
    """
    known = termination_of(cluster, pod)
    before = known.killed if known is not None else {}
    after = {name: kill for name, kill in kills.items() if attempts.get(name) == kill.attempt}
    for name, kill in kills.items():
        if name not in before:
            yield from kill_events(cluster, pod, name, kill.message, now)
    if after != before:
        base = known or Termination(ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid)
        yield structs.replace(base, killed=after)
    for container in pod.spec.long_running_containers:
        if container.name in kills:
            yield from failed_pre_stop_events(cluster, pod, container, seen, now)
    yield from (Wake(kill.at + grace_s(pod)) for kill in after.values())
