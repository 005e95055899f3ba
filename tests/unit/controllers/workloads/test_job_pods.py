"""The job controller: completions, indexes, back-off, deadlines and TTL."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.batch import Job
from kubenetlab.api.lab import JobTracking, PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, deletion
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.errors import ManifestError
from tests.clusters import NOW, applied, pod_named, problems_of, settled, store
from tests.unit.controllers.workloads.jobs import active_pods, with_exit, work


def job(more: str = "", policy: str = "Never") -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: work}}
spec:
  {more}
  template:
    spec:
      restartPolicy: {policy}
      containers: [{{name: main, image: agnhost, args: [connect, "db:5432"]}}]
---
"""


def test_a_job_completes_when_its_pod_succeeds() -> None:
    """The pod stays, without an address; the Job has the result."""
    cluster = store(job())
    (pod,) = active_pods(cluster)
    assert pod.labels["batch.kubernetes.io/job-name"] == pod.labels["job-name"] == "work"
    assert work(cluster).status.active == 1
    cluster = with_exit(cluster, pod)
    assert (work(cluster).outcome, work(cluster).status.succeeded, work(cluster).status.active) == (
        "Complete",
        1,
        0,
    )
    assert pod_named(cluster, pod.name).status.phase == "Succeeded"
    assert not active_pods(cluster)
    assert settled(cluster, NOW + 1000) is cluster


def test_completions_and_parallelism() -> None:
    """Two pods at a time until five have succeeded; none while suspended."""
    cluster = store(job("completions: 5\n  parallelism: 2"))
    seen = []
    while not work(cluster).outcome:
        seen.append(len(active_pods(cluster)))
        cluster = with_exit(cluster, active_pods(cluster)[0])
    assert seen == [2, 2, 2, 2, 1]
    assert not active_pods(store(job("suspend: true")))
    queue = store(job("parallelism: 3"))
    first, *rest = active_pods(queue)
    queue = with_exit(queue, first)
    assert [pod.name for pod in active_pods(queue)] == [pod.name for pod in rest]
    for pod in rest:
        queue = with_exit(queue, pod)
    assert work(queue).outcome == "Complete"


def test_an_indexed_job_completes_each_index_once() -> None:
    """Pods are named and labelled by index; a failed index is repeated."""
    cluster = store(job("completionMode: Indexed\n  completions: 3\n  parallelism: 3"))
    assert sorted(
        (pod.labels["batch.kubernetes.io/job-completion-index"], pod.spec.hostname)
        for pod in active_pods(cluster)
    ) == [
        ("0", "work-0"),
        ("1", "work-1"),
        ("2", "work-2"),
    ]
    first = next(pod for pod in active_pods(cluster) if pod.spec.hostname == "work-1")
    cluster = settled(with_exit(cluster, first, 1), NOW + 11)
    assert sorted(pod.spec.hostname for pod in active_pods(cluster)) == [
        "work-0",
        "work-1",
        "work-2",
    ]
    for pod in active_pods(cluster):
        cluster = with_exit(cluster, pod, now=NOW + 11)
    assert (work(cluster).outcome, work(cluster).status.completed_indexes) == ("Complete", "0-2")


@pytest.mark.parametrize(
    ("succeeded", "text"),
    [
        ([], ""),
        ([3], "3"),
        ([1, 0], "0,1"),
        ([2, 0, 1], "0-2"),
        ([0, 1, 2, 4], "0-2,4"),
        ([10, 9, 8, 5, 4, 0], "0,4,5,8-10"),
    ],
    ids=["none", "one", "two-neighbours", "interval", "interval-and-one", "by-number"],
)
def test_completed_indexes_are_written_as_intervals(succeeded: list[int], text: str) -> None:
    """Three or more indexes in a row are an interval; two are not, as in Kubernetes."""
    cluster = store(job("completionMode: Indexed\n  completions: 12\n  parallelism: 12"))
    pods = {pod.spec.hostname: pod for pod in active_pods(cluster)}
    for index in succeeded:
        cluster = with_exit(cluster, pods[f"work-{index}"])
    assert work(cluster).status.completed_indexes == text
    assert work(cluster).status.succeeded == len(succeeded)


def test_failed_pods_are_replaced_with_back_off_until_the_limit() -> None:
    """After 10 s, then 20 s; beyond backoffLimit the Job fails."""
    cluster = store(job("backoffLimit: 2"))
    now = NOW
    for wait in (10, 20):
        cluster = with_exit(cluster, active_pods(cluster)[0], 1, now)
        assert not active_pods(cluster)
        assert not active_pods(settled(cluster, now + wait - 1))
        now += wait
        cluster = settled(cluster, now)
        assert len(active_pods(cluster)) == 1
    cluster = with_exit(cluster, active_pods(cluster)[0], 1, now)
    assert work(cluster).outcome == "Failed"
    assert work(cluster).status.conditions[0].reason == "BackoffLimitExceeded"


def test_a_job_has_a_deadline_and_a_ttl() -> None:
    """Beyond the deadline it fails and its pods are deleted; after the TTL it is deleted."""
    cluster = store(job("activeDeadlineSeconds: 60"))
    assert work(settled(cluster, NOW + 59)).outcome == ""
    expired = settled(cluster, NOW + 60)
    assert (work(expired).status.conditions[0].reason, active_pods(expired)) == (
        "DeadlineExceeded",
        [],
    )
    short = store(job("ttlSecondsAfterFinished: 30"))
    done = with_exit(short, active_pods(short)[0])
    assert settled(done, NOW + 29).get(Job, "default", "work") is not None
    assert settled(done, NOW + 30).get(Job, "default", "work") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (job(policy="Always"), "expected OnFailure or Never in a Job"),
        (job("completionMode: Indexed"), "required when completion mode is Indexed"),
        (job("selector: {matchLabels: {a: b}}"), "set by the Job itself"),
    ],
)
def test_invalid_jobs_are_rejected(text: str, message: str) -> None:
    """The messages are the API server's."""
    assert any(message in problem.message for problem in problems_of(text))


def test_a_jobs_template_cannot_change() -> None:
    """The field is immutable."""
    with pytest.raises(ManifestError, match="template: field is immutable"):
        applied(store(job()), job().replace("db:5432", "db:5433"))


def deleted(cluster: Cluster, pod: Pod, now: float = NOW) -> Cluster:
    """Return the store after a user has deleted a pod and it is gone."""
    runtime = cluster.get(PodRuntimeStatus, pod.namespace, pod.name)
    changes: list[Change] = [*deletion_changes(pod, now)]
    if runtime is not None:
        changes.append(structs.replace(runtime, is_detached=True))
    cluster = settled(cluster.with_changes(changes), now)
    assert cluster.get(Pod, pod.namespace, pod.name) is None
    return cluster


def test_a_deleted_pod_counts_as_it_ended() -> None:
    """A finished pod keeps its success after its deletion; the work is not repeated."""
    cluster = store(job("completions: 2"))
    cluster = with_exit(cluster, active_pods(cluster)[0])
    (finished,) = [pod for pod in cluster.all(Pod) if pod.is_finished]
    cluster = deleted(cluster, finished)
    assert work(cluster).status.succeeded == 1
    cluster = with_exit(cluster, active_pods(cluster)[0])
    assert (work(cluster).outcome, work(cluster).status.succeeded) == ("Complete", 2)


def test_an_active_pod_that_is_deleted_has_failed() -> None:
    """As in Kubernetes; pods that the Job deletes itself do not count."""
    cluster = store(job("backoffLimit: 0"))
    cluster = deleted(cluster, active_pods(cluster)[0])
    assert work(cluster).status.conditions[0].reason == "BackoffLimitExceeded"
    patient = store(job("completions: 4\n  parallelism: 3\n  backoffLimit: 0"))
    fewer = work(patient)
    fewer = structs.replace(fewer, spec=structs.replace(fewer.spec, parallelism=1))
    patient = settled(patient.with_changes([fewer]))
    assert len(active_pods(patient)) == 1
    assert (work(patient).outcome, work(patient).status.failed) == ("", 0)
    paused = structs.replace(fewer, spec=structs.replace(fewer.spec, suspend=True))
    patient = settled(patient.with_changes([paused]))
    assert (len(active_pods(patient)), work(patient).status.failed) == (0, 0)


def test_another_job_of_the_same_name_begins_at_nothing() -> None:
    """The counts belong to the Job that was deleted."""
    cluster = store(job("completions: 2"))
    cluster = with_exit(cluster, active_pods(cluster)[0])
    cluster = settled(cluster.with_changes([deletion(work(cluster))]))
    assert not cluster.all(JobTracking)
    cluster = settled(applied(cluster, job("completions: 1")))
    assert work(cluster).status.succeeded == 0
