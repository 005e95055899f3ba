"""A rehearsal: what a lab comes to when everything goes well, found out without making it.

The kubelets' reports are played: every sandbox is made, every container runs, every probe is answered, and what asks something once
has ended well. The controllers hear of it, do what is theirs, and there may be more pods to report, until nothing is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from kubenetlab import controllers
from kubenetlab.api.containers import Container
from kubenetlab.api.core import Node
from kubenetlab.api.lab import ContainerReport, NodeReport, PodRuntimeStatus, ProbeReport
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.ipam import attachment_of
from kubenetlab.lab.machine import decisions
from kubenetlab.observe.settled import will_end
from kubenetlab.programs.ending import ending_in

_PID = 1
"""Any will do: nobody looks for the process."""


def rehearse(cluster: Cluster, now: float) -> Cluster:
    """The store of a new lab once all is as it should be."""
    while True:
        after, _ = controllers.run(cluster.with_changes(reports(cluster, now)), now)
        after = after.with_changes([decisions(after)])
        if after is cluster:
            return cluster
        cluster = after


def reports(
    cluster: Cluster, now: float, *, ready: bool = True
) -> Iterator[NodeReport | PodRuntimeStatus]:
    """Of every node, and every pod that can have a sandbox; with `ready` false the pods' probes have failed."""
    for node in cluster.all(Node):
        yield NodeReport(ObjectMeta(name=node.name), _PID)
    for pod in cluster.all(Pod):
        has_place = pod.spec.host_network or attachment_of(cluster, pod) is not None
        if pod.spec.node_name and has_place and not pod.is_finished:
            yield report(pod, now, ready=ready)


def report(pod: Pod, now: float, *, ready: bool = True) -> PodRuntimeStatus:
    """All containers of a pod in their present attempt: init containers have done their work, startup probes are answered, postStart hooks done."""
    attempts = {status.name: status.restart_count for status in pod.container_statuses}
    asked: tuple[Literal["startup", "readiness", "postStart"], ...] = (
        "startup",
        "readiness",
        "postStart",
    )
    return PodRuntimeStatus(
        ObjectMeta(name=pod.name, namespace=pod.namespace),
        pod.uid,
        sandbox_pid=_PID,
        containers={
            container.name: _run(pod, container, attempts.get(container.name, 0), now)
            for container in pod.spec.all_containers
        },
        probes={
            f"{container.name}/{kind}": ProbeReport(
                attempts.get(container.name, 0), kind, ready or kind != "readiness", at=now
            )
            for container in pod.spec.long_running_containers
            for kind in asked
            if kind == "readiness" or _has(container, kind)
        },
    )


def _has(container: Container, kind: Literal["startup", "postStart"]) -> bool:
    """Return True for a container with a startup probe, or with a postStart hook."""
    return (
        container.startup_probe if kind == "startup" else container.lifecycle.post_start
    ) is not None


def _run(pod: Pod, container: Container, attempt: int, now: float) -> ContainerReport:
    is_init = container in pod.spec.init_containers and not container.is_sidecar
    if is_init or will_end(pod, container):
        ending = ending_in(pod, container)
        return ContainerReport(
            attempt, "exited", ending.exit_code if ending is not None else 0, at=now
        )
    return ContainerReport(attempt, "running", at=now)
