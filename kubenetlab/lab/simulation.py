"""Simulation of a lab: the store of a lab in which nothing fails, computed without creating it.

The reports of the kubelets are simulated: every sandbox is created, every container runs, every
probe succeeds, and programs that end by themselves have ended successfully. The controllers react,
which may create more pods to report, until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.containers import Container
from kubenetlab.api.core import Node
from kubenetlab.api.lab import (
    Attachment,
    ContainerReport,
    NodeReport,
    PodRuntimeStatus,
    ProbeReport,
)
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes.ipam import attachment_of
from kubenetlab.controllers.nodes.ipam.allocator import AllocationFailure
from kubenetlab.controllers.nodes.ipam.host_local import HostLocal
from kubenetlab.lab.machine import Decide, decisions
from kubenetlab.observe.settled import will_end
from kubenetlab.programs.support.ending import ending_in

_PID = 1
"""Arbitrary pid: no component of a simulated lab uses it."""


def simulate(cluster: Cluster, now: float, decide: Decide = decisions) -> Cluster:
    """Return the store of a new lab after everything has started successfully.

    decide: returns the decisions; by default those for this machine.
    """
    while True:
        after = controllers.settle(cluster.with_changes(reports(cluster, now)), now)
        after = after.with_changes([decide(after)])
        if after is cluster:
            return cluster
        cluster = after


def reports(
    cluster: Cluster, now: float, *, ready: bool = True
) -> Iterator[NodeReport | PodRuntimeStatus | Attachment]:
    """Yield the reports of every node, and of every pod that can have a sandbox.

    ready: False if the readiness probes of the pods fail.
    """
    for node in cluster.all(Node):
        yield NodeReport(ObjectMeta(name=node.name), _PID)
    for pod in cluster.all(Pod):
        has_network = pod.spec.host_network or attachment_of(cluster, pod) is not None
        if pod.spec.node_name and has_network and not pod.is_finished:
            yield report(pod, now, ready=ready)
    yield from _attachments(cluster)


def _attachments(cluster: Cluster) -> Iterator[Attachment]:
    """Yield the attachments that CNI plugins would report, with addresses like host-local's."""
    waiting = [attachment for attachment in cluster.all(Attachment) if not attachment.addresses]
    if not waiting:
        return
    allocator = HostLocal(cluster, {attachment.node for attachment in waiting})
    for attachment in waiting:
        pod = cluster.get(Pod, attachment.metadata.namespace, attachment.metadata.name)
        node = cluster.node(attachment.node)
        addresses = allocator.allocate(pod, node) if pod is not None and node is not None else ()
        if not isinstance(addresses, AllocationFailure) and addresses:
            yield structs.replace(attachment, addresses=addresses)


def report(pod: Pod, now: float, *, ready: bool = True) -> PodRuntimeStatus:
    """Return the report of a pod whose containers all run in their present attempt.

    Init containers have completed, startup probes have succeeded, postStart hooks have run.

    ready: False if the readiness probes fail.
    """
    attempts = {status.name: status.restart_count for status in pod.container_statuses}
    kinds: tuple[Literal["startup", "readiness", "postStart"], ...] = (
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
            for kind in kinds
            if kind == "readiness" or _has(container, kind)
        },
    )


def _has(container: Container, kind: Literal["startup", "postStart"]) -> bool:
    """Return True if a container has a startup probe or a postStart hook, respectively."""
    return (
        container.startup_probe if kind == "startup" else container.lifecycle.post_start
    ) is not None


def _run(pod: Pod, container: Container, attempt: int, now: float) -> ContainerReport:
    """Return the report of a container that runs, or has ended if its program ends by itself."""
    is_init = container in pod.spec.init_containers and not container.is_sidecar
    if is_init or will_end(pod, container):
        ending = ending_in(pod, container)
        return ContainerReport(
            attempt, "exited", ending.exit_code if ending is not None else 0, at=now
        )
    return ContainerReport(attempt, "running", at=now)
