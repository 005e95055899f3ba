"""Kills of single containers: after a failed startup or liveness probe or postStart hook.

The pod goes on. A container with a preStop hook is killed when the hook has ended or the grace
period is over; other containers are killed at once.
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
from kubenetlab.controllers.kubelet.stopping import (
    failed_pre_stop_events,
    grace_s,
    runs_pre_stop,
    termination_of,
)
from kubenetlab.controllers.support.events import event
from kubenetlab.controllers.support.wake import Wake

KILLING_PROBES: Final = ("startup", "liveness")
"""Kinds of probes whose failure kills the container."""
POST_START_FAILED: Final = "PostStartHook failed"
"""Start of the message of a container that was killed because its postStart hook failed."""


def kill_of(
    pod: Pod,
    container: Container,
    attempt: int,
    runtime: PodRuntimeStatus,
    known: Mapping[str, Kill],
) -> Kill | None:
    """Return the kill of a container's run; None when it is not killed.

    known: container → kill that waits for a preStop hook. It stays when its probe recovers.
    Failed probes do not kill the containers of a terminating pod.
    """
    if (kill := known.get(container.name)) is not None and kill.attempt == attempt:
        return kill
    hook = runtime.hook(container.name, "postStart", attempt)
    if hook is not None and not hook.ok:
        return Kill(attempt, f"{POST_START_FAILED}: {hook.message}", hook.at)
    for kind in KILLING_PROBES if not pod.is_terminating else ():
        report = runtime.probes.get(f"{container.name}/{kind}")
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
    pod: Pod, container: Container, kill: Kill, runtime: PodRuntimeStatus, now: float
) -> float | None:
    """Return the time of a kill in seconds since 1970; None while its preStop hook runs."""
    if not runs_pre_stop(pod, container):
        return kill.at
    hook = runtime.hook(container.name, "preStop", kill.attempt)
    if hook is not None:
        return hook.at
    limit = kill.at + grace_s(pod)
    return limit if now >= limit else None


def kills_after_hooks(
    cluster: Cluster, pod: Pod, runtime: PodRuntimeStatus | None
) -> dict[str, Kill]:
    """Return container → kill for the killed containers that have a preStop hook."""
    if (
        runtime is None
        or pod.is_terminating
        or not any(container.lifecycle.pre_stop for container in pod.spec.long_running_containers)
    ):
        return {}
    known = pending_kills(cluster, pod)
    kills: dict[str, Kill] = {}
    for container in pod.spec.long_running_containers:
        run = runtime.containers.get(container.name)
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
            and (kill := kill_of(pod, container, run.attempt, runtime, known)) is not None
        ):
            kills[container.name] = kill
    return kills


def pending_kills(cluster: Cluster, pod: Pod) -> Mapping[str, Kill]:
    """Return container → kill for the kills that were recorded when their preStop hooks began."""
    termination = termination_of(cluster, pod)
    return termination.killed if termination is not None else {}


def is_kill(message: str) -> bool:
    """Return True for the message of a container that a probe or a postStart hook has killed."""
    return message.startswith(POST_START_FAILED) or failed_probe(message) != ""


def failed_probe(message: str) -> str:
    """Return the kind of the probe whose failure killed the container; empty for other causes."""
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
    """Yield the events that report why a container is killed."""
    source = f"kubelet, {pod.spec.node_name}"
    if kind := failed_probe(message):
        yield event(cluster, pod, "Warning", "Unhealthy", message, source, now)
        action = f"Container {container} failed {kind} probe, will be restarted"
        yield event(cluster, pod, "Normal", "Killing", action, source, now)
    else:
        yield event(cluster, pod, "Warning", "FailedPostStartHook", message, source, now)
        yield event(cluster, pod, "Normal", "Killing", "FailedPostStartHook", source, now)


def record_kills(
    cluster: Cluster,
    pod: Pod,
    runtime: PodRuntimeStatus,
    kills: Mapping[str, Kill],
    attempts: Mapping[str, int],
    now: float,
) -> Iterator[Change | Wake]:
    """Yield the record of the kills whose preStop hooks run, and Wakes for their deadlines.

    The record survives a restart of the agent.
    kills: container → kill that waits for a preStop hook.
    attempts: container → current run of each container that runs. Kills of earlier runs are over.
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
            yield from failed_pre_stop_events(cluster, pod, container, runtime, now)
    yield from (Wake(kill.at + grace_s(pod)) for kill in after.values())
