"""Changes of the store that follow from reports on sandboxes, programs and probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import structs

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
from kubenetlab.api.store import Change, Cluster, deletion
from kubenetlab.controllers.ipam import attachment_of
from kubenetlab.controllers.kubelet import runtime_status_of
from kubenetlab.names import node_netns, pod_netns


def pod_of(cluster: Cluster, netns: str) -> Pod | None:
    """Return the pod of a sandbox; None for other namespaces and for pods that are gone."""
    kind, _, rest = netns.partition("/")
    if kind != "pod":
        return None
    namespace, name, uid = rest.split("/")
    pod = cluster.get(Pod, namespace, name)
    return pod if pod is not None and pod.uid.startswith(uid) else None


def sandbox_made(cluster: Cluster, netns: str, pid: int) -> Iterator[Change]:
    """Yield the changes for a sandbox whose pause process has started.

    pid: 0 if the pause process has exited.
    """
    kind, _, name = netns.partition("/")
    if kind == "node" and cluster.get(Node, "", name) is not None:
        yield NodeReport(ObjectMeta(name=name), pid)
    pod = pod_of(cluster, netns)
    if pod is None:
        return
    if pid:
        yield structs.replace(_status(cluster, pod), sandbox_pid=pid, sandbox_error="")
        return
    # A pod that lost its sandbox gets a new one with a new address; all containers start again.
    yield PodRuntimeStatus(ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid)
    attachment = attachment_of(cluster, pod)
    if isinstance(attachment, Attachment):
        yield deletion(attachment)


def recorded_sandboxes(cluster: Cluster) -> Iterator[tuple[str, int]]:
    """Yield the namespace of each node and pod, with the stored pid of its pause process or 0."""
    for node in cluster.all(Node):
        report = cluster.get(NodeReport, "", node.name)
        yield node_netns(node.name), report.sandbox_pid if report else 0
    for pod in cluster.all(Pod):
        status = runtime_status_of(cluster, pod)
        yield pod_netns(pod.namespace, pod.name, pod.uid), status.sandbox_pid if status else 0


def sandbox_failed(cluster: Cluster, netns: str, message: str) -> Iterator[Change]:
    """Yield the change for a pod in whose namespace the kernel refused something."""
    pod = pod_of(cluster, netns)
    if pod is not None:
        yield structs.replace(_status(cluster, pod), sandbox_error=message)


def program_reports(cluster: Cluster, reports: Iterable[dict[str, Any]]) -> Iterator[Change]:
    """Yield the changes for reports of containers that have started or ended."""
    return _changed(cluster, reports, _program_report)


def probe_reports(cluster: Cluster, reports: Iterable[dict[str, Any]]) -> Iterator[Change]:
    """Yield the changes for the results of probes."""
    return _changed(cluster, reports, _probe_report)


def _changed(
    cluster: Cluster,
    reports: Iterable[dict[str, Any]],
    update: Callable[[PodRuntimeStatus, dict[str, Any]], PodRuntimeStatus],
) -> Iterator[Change]:
    """Yield the status of each pod that the reports change.

    update: returns the status after one report, or the same object if it changes nothing.
    """
    changed: dict[str, PodRuntimeStatus] = {}
    for report in reports:
        netns = report["netns"]
        pod = pod_of(cluster, netns)
        if pod is not None:
            before = changed.get(netns) or _status(cluster, pod)
            after = update(before, report)
            if after is not before:
                changed[netns] = after
    yield from changed.values()


def _program_report(status: PodRuntimeStatus, report: dict[str, Any]) -> PodRuntimeStatus:
    new = ContainerReport(
        report["attempt"],
        report["state"],
        report.get("exit_code", 0),
        report.get("message", ""),
        report.get("at", 0.0),
        report.get("is_process", False),
        report.get("ends_later", False),
        report.get("reason", ""),
    )
    known = status.containers.get(report["container"])
    if known is not None and (known.attempt, known.state != "running") >= (
        new.attempt,
        new.state != "running",
    ):
        return status  # known already, or older than the report of its end or of a later run
    return structs.replace(status, containers={**status.containers, report["container"]: new})


def _probe_report(status: PodRuntimeStatus, report: dict[str, Any]) -> PodRuntimeStatus:
    new = ProbeReport(
        report["attempt"],
        report["kind"],
        report["ok"],
        report["message"],
        report["at"],
        report["failures"],
        report["is_settled"],
    )
    key = f"{report['container']}/{report['kind']}"
    known = status.probes.get(key)
    if known is not None and structs.replace(known, at=0.0) == structs.replace(new, at=0.0):
        return status
    return structs.replace(status, probes={**status.probes, key: new})


def detached(cluster: Cluster, pod: Pod) -> Iterator[Change]:
    """Yield the change for a terminating pod whose endpoints have left all rules."""
    status = runtime_status_of(cluster, pod)
    if status is not None and not status.is_detached:
        yield structs.replace(status, is_detached=True)


def _status(cluster: Cluster, pod: Pod) -> PodRuntimeStatus:
    """Return the stored status of a pod, or an empty one."""
    return runtime_status_of(cluster, pod) or PodRuntimeStatus(
        ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid
    )
