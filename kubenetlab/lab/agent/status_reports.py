"""What was seen, as changes of the store: reports of sandboxes, programs, processes and probes."""

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
from kubenetlab.controllers.kubelet import observed_of
from kubenetlab.names import node_netns, pod_netns


def pod_of(cluster: Cluster, netns: str) -> Pod | None:
    """The pod whose sandbox this is; None for other namespaces and for pods that are gone."""
    kind, _, rest = netns.partition("/")
    if kind != "pod":
        return None
    namespace, name, uid = rest.split("/")
    pod = cluster.get(Pod, namespace, name)
    return pod if pod is not None and pod.uid.startswith(uid) else None


def sandbox_made(cluster: Cluster, netns: str, pid: int) -> Iterator[Change]:
    """A pause process runs (or, with pid 0, does not run any more)."""
    kind, _, name = netns.partition("/")
    if kind == "node" and cluster.get(Node, "", name) is not None:
        yield NodeReport(ObjectMeta(name=name), pid)
    pod = pod_of(cluster, netns)
    if pod is None:
        return
    seen = _observed(cluster, pod)
    if pid:
        yield structs.replace(seen, sandbox_pid=pid, sandbox_error="")
        return
    # A pod that lost its sandbox gets a new one, with a new address, and all its containers start anew in it.
    yield PodRuntimeStatus(ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid)
    attachment = attachment_of(cluster, pod)
    if isinstance(attachment, Attachment):
        yield deletion(attachment)


def recorded_sandboxes(cluster: Cluster) -> Iterator[tuple[str, int]]:
    """The namespace of each node and pod, with the pid of its pause process as far as it has been told; 0: there is none."""
    for node in cluster.all(Node):
        report = cluster.get(NodeReport, "", node.name)
        yield node_netns(node.name), report.sandbox_pid if report else 0
    for pod in cluster.all(Pod):
        seen = observed_of(cluster, pod)
        yield pod_netns(pod.namespace, pod.name, pod.uid), seen.sandbox_pid if seen else 0


def sandbox_failed(cluster: Cluster, netns: str, message: str) -> Iterator[Change]:
    """Linux refused something in a pod's namespace."""
    pod = pod_of(cluster, netns)
    if pod is not None:
        yield structs.replace(_observed(cluster, pod), sandbox_error=message)


def program_reports(cluster: Cluster, reports: Iterable[dict[str, Any]]) -> Iterator[Change]:
    """How runs of containers go, as app workers say."""
    return _told(cluster, reports, _program_report)


def probe_reports(cluster: Cluster, reports: Iterable[dict[str, Any]]) -> Iterator[Change]:
    """How the latest probes ended, as a node agent says."""
    return _told(cluster, reports, _probe_report)


def _told(
    cluster: Cluster,
    reports: Iterable[dict[str, Any]],
    told: Callable[[PodRuntimeStatus, dict[str, Any]], PodRuntimeStatus],
) -> Iterator[Change]:
    """What is known of each pod after some reports, if that is something new."""
    changed: dict[str, PodRuntimeStatus] = {}
    for report in reports:
        netns = report["netns"]
        pod = pod_of(cluster, netns)
        if pod is not None:
            before = changed.get(netns) or _observed(cluster, pod)
            after = told(before, report)
            if after is not before:
                changed[netns] = after
    yield from changed.values()


def _program_report(seen: PodRuntimeStatus, report: dict[str, Any]) -> PodRuntimeStatus:
    told = ContainerReport(
        report["attempt"],
        report["state"],
        report.get("exit_code", 0),
        report.get("message", ""),
        report.get("at", 0.0),
        report.get("is_process", False),
        report.get("ends_later", False),
        report.get("reason", ""),
    )
    known = seen.containers.get(report["container"])
    if known is not None and (known.attempt, known.state != "running") >= (
        told.attempt,
        told.state != "running",
    ):
        return seen  # nothing new, or overtaken by the report of its end or of a later run
    return structs.replace(seen, containers={**seen.containers, report["container"]: told})


def _probe_report(seen: PodRuntimeStatus, report: dict[str, Any]) -> PodRuntimeStatus:
    told = ProbeReport(
        report["attempt"],
        report["kind"],
        report["ok"],
        report["message"],
        report["at"],
        report["failures"],
        report["is_settled"],
    )
    key = f"{report['container']}/{report['kind']}"
    known = seen.probes.get(key)
    if known is not None and structs.replace(known, at=0.0) == structs.replace(told, at=0.0):
        return seen
    return structs.replace(seen, probes={**seen.probes, key: told})


def detached(cluster: Cluster, pod: Pod) -> Iterator[Change]:
    """A terminating pod's endpoints have left all rules."""
    seen = observed_of(cluster, pod)
    if seen is not None and not seen.is_detached:
        yield structs.replace(seen, is_detached=True)


def _observed(cluster: Cluster, pod: Pod) -> PodRuntimeStatus:
    return observed_of(cluster, pod) or PodRuntimeStatus(
        ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid
    )
