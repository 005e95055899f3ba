"""Changes of the store that follow from reports on sandboxes, programs and probes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import TypeVar

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, NodeReport, PodRuntimeStatus
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, deletion
from kubenetlab.api.values.ip import version_of
from kubenetlab.cni.calls import AttachedPod
from kubenetlab.controllers.kubelet.kubelet import runtime_status_of
from kubenetlab.controllers.nodes.ipam import attachment_of
from kubenetlab.lab.agent.clients.plugin_client import AttachmentReport
from kubenetlab.lab.messages.app_worker import RunReport
from kubenetlab.lab.messages.node_agent import ProbeResult
from kubenetlab.names import node_netns, pod_netns

ReportT = TypeVar("ReportT", RunReport, ProbeResult)


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


def replaced_sandboxes(cluster: Cluster, existing: Container[str]) -> Iterator[Change]:
    """Yield the changes for pods of a former CNI mode whose sandboxes have been removed.

    existing: namespaces of the sandboxes that exist.
    """
    for attachment in cluster.index(Attachment, _stale):
        netns = pod_netns(attachment.namespace, attachment.name, attachment.pod_uid)
        if netns in existing:
            continue
        if pod_of(cluster, netns) is None:
            yield deletion(attachment)
        else:
            yield from sandbox_made(cluster, netns, 0)


def _stale(attachments: Iterable[Attachment]) -> tuple[Attachment, ...]:
    return tuple(attachment for attachment in attachments if attachment.is_stale)


def attachment_reports(cluster: Cluster, reports: Iterable[AttachmentReport]) -> Iterator[Change]:
    """Yield the changes for pods that CNI plugins have attached, or failed to attach."""
    for report in reports:
        if isinstance(report.result, AttachedPod):
            yield from _attached(cluster, report.netns, report.sandbox_id, report.result)
        else:
            yield from sandbox_failed(cluster, report.netns, report.result)


def _attached(
    cluster: Cluster, netns: str, sandbox_id: str, result: AttachedPod
) -> Iterator[Change]:
    pod = pod_of(cluster, netns)
    attachment = attachment_of(cluster, pod) if pod is not None else None
    if pod is None or attachment is None:
        return
    versions = cluster.config.networking.versions
    addresses = sorted(
        (address for address in result.addresses if version_of(address) in versions),
        key=lambda address: versions.index(version_of(address)),
    )
    yield structs.replace(
        attachment,
        addresses=tuple(addresses or result.addresses),
        host_ifname=result.host_ifname,
        sandbox_id=sandbox_id,
    )
    status = runtime_status_of(cluster, pod)
    if status is not None and status.sandbox_error:
        yield structs.replace(status, sandbox_error="")


def network_status(cluster: Cluster, netns: str, error: str) -> Iterator[Change]:
    """Yield the change for the answer of a node's CNI plugins to STATUS."""
    report = cluster.get(NodeReport, "", netns.removeprefix("node/"))
    if report is not None:
        yield structs.replace(report, network_error=error)


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


def program_reports(
    cluster: Cluster, reports: Iterable[RunReport], skew_s: float
) -> Iterator[Change]:
    """Yield the changes for reports of containers that have started or ended.

    skew_s: seconds by which the times of the reports are ahead of the lab's clock.
    """
    return _changed(
        cluster, reports, lambda status, report: _with_container(status, report, skew_s)
    )


def probe_reports(
    cluster: Cluster, results: Iterable[ProbeResult], skew_s: float
) -> Iterator[Change]:
    """Yield the changes for the results of probes.

    skew_s: as for `program_reports`.
    """
    return _changed(cluster, results, lambda status, result: _with_probe(status, result, skew_s))


def _changed(
    cluster: Cluster,
    reports: Iterable[ReportT],
    update: Callable[[PodRuntimeStatus, ReportT], PodRuntimeStatus],
) -> Iterator[Change]:
    """Yield the status of each pod that the reports change.

    update: returns the status after one report, or the same object if it changes nothing.
    """
    changed: dict[str, PodRuntimeStatus] = {}
    for report in reports:
        pod = pod_of(cluster, report.netns)
        if pod is not None:
            before = changed.get(report.netns) or _status(cluster, pod)
            after = update(before, report)
            if after is not before:
                changed[report.netns] = after
    yield from changed.values()


def _with_container(status: PodRuntimeStatus, report: RunReport, skew_s: float) -> PodRuntimeStatus:
    new = report.outcome
    known = status.containers.get(report.container)
    if known is not None and (known.attempt, known.state != "running") >= (
        new.attempt,
        new.state != "running",
    ):
        return status  # known already, or older than the report of its end or of a later run
    new = structs.replace(new, at=new.at - skew_s)
    return structs.replace(status, containers={**status.containers, report.container: new})


def _with_probe(status: PodRuntimeStatus, result: ProbeResult, skew_s: float) -> PodRuntimeStatus:
    new = structs.replace(result.outcome, at=result.outcome.at - skew_s)
    key = f"{result.container}/{new.kind}"
    known = status.probes.get(key)
    if known is not None and structs.replace(known, at=new.at) == new:
        return status
    return structs.replace(status, probes={**status.probes, key: new})


def all_detached(cluster: Cluster) -> Iterator[Change]:
    """Yield the changes for terminating pods once the endpoints of all have left all rules."""
    for pod in cluster.all(Pod):
        if pod.is_terminating:
            yield from detached(cluster, pod)


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
