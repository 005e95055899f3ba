"""The Job `work` of the tests of Jobs, its pods and their ends."""

from __future__ import annotations

from kubenetlab.api.batch import Job
from kubenetlab.api.lab import ContainerReport, PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from tests.clusters import NOW, observed, settled


def work(cluster: Cluster) -> Job:
    """Return the Job."""
    job = cluster.get(Job, "default", "work")
    assert job is not None
    return job


def active_pods(cluster: Cluster) -> list[Pod]:
    """Return the pods of the Job that neither have ended nor terminate."""
    return [
        pod
        for pod in cluster.owned_by(Pod, work(cluster))
        if not pod.is_finished and not pod.is_terminating
    ]


def with_exit(
    cluster: Cluster, pod: Pod, code: int = 0, now: float = NOW, *, attempt: int = 0
) -> Cluster:
    """Return the store once the container of a pod has ended with an exit status."""
    status = observed(pod)
    ended = PodRuntimeStatus(
        status.metadata,
        status.pod_uid,
        20,
        containers={"main": ContainerReport(attempt, "exited", code, at=now)},
    )
    return settled(cluster.with_changes([ended]), now)
