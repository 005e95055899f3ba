"""Is a pod ready, on the way, or stuck for a reason that time will not cure?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from kubenetlab.api.containers import Container
from kubenetlab.api.core import Event
from kubenetlab.api.pods import CONDITIONS_ANNOTATION, READY_ANNOTATION, Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.containers import CONFIG_ERROR, CRASH_LOOP, how_it_ended
from kubenetlab.controllers.faults import what_stops
from kubenetlab.controllers.kubelet import GATES_NOT_READY, observed_of
from kubenetlab.controllers.scheduler import SCHEDULED, SCHEDULING_GATED
from kubenetlab.programs import is_one_shot, setup

State = Literal["ready", "unready", "completed", "waiting", "stuck"]
"""unready: on purpose, by an annotation, by scheduling gates or by a fault."""

_CREATION_EVENTS = ("FailedCreatePodSandBox", "NetworkNotReady")


class Verdict(Struct, frozen=True):
    """What to expect of one pod."""

    pod: str
    """`namespace/name`"""
    state: State
    reason: str = ""
    """For what is stuck: `CrashLoopBackOff: container main: exit status 1: listen tcp :80: bind: address already in use`."""

    @property
    def is_settled(self) -> bool:
        return self.state != "waiting"


def verdicts(cluster: Cluster) -> list[Verdict]:
    """One for each pod that is not being deleted, in order."""
    events: dict[str, str] = {}
    for entry in cluster.all(Event):
        if entry.reason in _CREATION_EVENTS:
            events[entry.involved_object.uid] = f"{entry.reason}: {entry.message}"
    return [verdict(cluster, pod, events.get(pod.uid, "")) for pod in cluster.all(Pod) if not pod.is_terminating]


def verdict(cluster: Cluster, pod: Pod, creation_failure: str = "") -> Verdict:
    """What to expect of a pod. `creation_failure` is what its events say about its sandbox."""
    name = pod.full_name
    if pod.status.phase == "Succeeded":
        return Verdict(name, "completed")
    if pod.is_ready:
        is_passing = any(will_end(pod, container) for container in pod.spec.long_running_containers)
        return Verdict(name, "waiting" if is_passing else "ready")
    containers_ready = pod.status.condition("ContainersReady")
    if pod.metadata.annotations.get(READY_ANNOTATION) == "false" and containers_ready is not None and containers_ready.status == "True":
        return Verdict(name, "unready", f'annotation {READY_ANNOTATION} is "false"')
    if (at_gates := _at_readiness_gates(pod)) is not None:
        return at_gates
    scheduled = pod.status.condition(SCHEDULED)
    if scheduled is not None and scheduled.status == "False":
        state: State = "unready" if scheduled.reason == SCHEDULING_GATED else "stuck"
        return Verdict(name, state, f"{scheduled.reason}: {scheduled.message}")
    if pod.spec.node_name and cluster.node(pod.spec.node_name) is None:
        return Verdict(name, "stuck", f"spec.nodeName: there is no node {pod.spec.node_name}")
    if (fault := what_stops(cluster, pod)) is not None:
        return Verdict(name, "unready", fault.title)
    reason = next(_faults(cluster, pod), "")
    if not reason and pod.status.phase == "Pending":
        reason = creation_failure
    return Verdict(name, "stuck", reason) if reason else Verdict(name, "waiting")


def _at_readiness_gates(pod: Pod) -> Verdict | None:
    """Return the verdict of a pod that only its readiness gates keep from being ready; None for any other.

    A condition that does not exist will not come by itself; one that is there and not True was set on purpose.
    """
    ready = pod.status.condition("Ready")
    if ready is None or ready.reason != GATES_NOT_READY:
        return None
    reason = f"{ready.reason}: {ready.message}"
    missing = [gate.condition_type for gate in pod.spec.readiness_gates if pod.status.condition(gate.condition_type) is None]
    if not missing:
        return Verdict(pod.full_name, "unready", reason)
    example = ",".join(f"{type_}=True" for type_ in missing)
    hint = f'(set it by the annotation {CONDITIONS_ANNOTATION}: "{example}")'
    return Verdict(pod.full_name, "stuck", f"{reason} {hint}")


def will_end(pod: Pod, container: Container) -> bool:
    """True when a container's program asks something once and is not restarted for ever: its end is what matters."""
    return pod.spec.restart_policy != "Always" and is_one_shot(setup(container).program)


def _faults(cluster: Cluster, pod: Pod) -> Iterator[str]:
    seen = observed_of(cluster, pod)
    for container in pod.container_statuses:
        ended = container.state.terminated or container.last_state.terminated
        detail = how_it_ended(ended) if ended else ""
        waits = container.state.waiting
        if waits is not None and waits.reason == CONFIG_ERROR:
            yield f"{CONFIG_ERROR}: container {container.name}: {waits.message}"
        elif waits is not None and waits.reason == CRASH_LOOP:
            yield f"{CRASH_LOOP}: container {container.name}: {detail}"
        elif container.state.terminated is not None and container.state.terminated.exit_code:
            yield f"Error: container {container.name}: {detail}"
        for kind in ("startup", "readiness"):
            probe = seen.probes.get(f"{container.name}/{kind}") if seen and container.state.running else None
            if probe is not None and probe.attempt == container.restart_count and probe.is_settled and not probe.ok:
                yield f"Unhealthy: container {container.name}: {kind.capitalize()} probe failed: {probe.message}"
