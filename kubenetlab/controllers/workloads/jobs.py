"""job controller: runs pods until enough of them have succeeded or too many have failed.

It reads Jobs and pods. It counts every pod once, when the pod has finished or is deleted, and
creates pods, waiting 10, 20, 40 … 600 seconds after failures since the
last success. Finished pods stay until their Job is deleted.
Source: k8s.io/kubernetes
pkg/controller/job/{job_controller.go,indexed_job_utils.go,backoff_utils.go}.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct, structs

from kubenetlab.api.batch import (
    COMPLETION_INDEX,
    CONTROLLER_UID_LABELS,
    JOB_NAME_LABELS,
    Job,
    JobStatus,
)
from kubenetlab.api.lab import JobTracking
from kubenetlab.api.meta import Condition, ObjectMeta, seconds, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.support.children import create_pod, delete_pod, new_pod
from kubenetlab.controllers.support.events import event
from kubenetlab.controllers.support.naming import child_name
from kubenetlab.controllers.support.serials import Serials
from kubenetlab.controllers.support.wake import Wake

SOURCE = "job-controller"

WATCHES: Final[tuple[Kind, ...]] = (Job, Pod)

FIRST_BACK_OFF_S = 10
MAX_BACK_OFF_S = 600


class _Pods(Struct, frozen=True):
    """A Job's pods by state. Pods that were counted still count after their deletion."""

    active: tuple[Pod, ...]
    counted: JobTracking

    @property
    def restarts(self) -> int:
        """Number of container restarts in active pods with restartPolicy OnFailure."""
        restarted = [pod for pod in self.active if pod.spec.restart_policy == "OnFailure"]
        return sum(status.restart_count for pod in restarted for status in pod.container_statuses)

    def exceed(self, limit: int) -> bool:
        """Return True when the Job has failed.

        That is: more failed pods than `limit`, or at least `limit` restarts (1 when `limit` is 0).
        """
        return len(self.counted.failed) > limit or self.restarts >= max(limit, 1)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    serials = Serials(cluster)
    for job in cluster.all(Job):
        owned = cluster.owned_by(Pod, job)
        known = cluster.get(JobTracking, job.namespace, job.name)
        before = known if known is not None and known.job_uid == job.uid else _new_tracking(job)
        pods = _Pods(
            tuple(pod for pod in owned if not pod.is_finished and not pod.is_terminating),
            _counted(job, owned, before),
        )
        if job.outcome:
            yield from _delete_after_ttl(job, now)
            continue
        ended = _end_condition(job, pods, now)
        surplus = _surplus(job, pods, ended)
        for pod in surplus:
            yield from delete_pod(cluster, job, pod, SOURCE, now)
        tracking = structs.replace(
            pods.counted, released=(*pods.counted.released, *(pod.uid for pod in surplus))
        )
        if tracking != known:
            yield tracking
        if ended is not None:
            yield event(
                cluster,
                job,
                "Normal" if ended.type == "Complete" else "Warning",
                *_event_text(ended),
                SOURCE,
                now,
            )
        else:
            yield from _adjust_pods(cluster, job, pods, serials, now)
        status = _status(job, pods, ended, now)
        if status != job.status:
            yield structs.replace(job, status=status)
    yield from serials.changes()


def _end_condition(job: Job, pods: _Pods, now: float) -> Condition | None:
    """Return the condition that ends the Job now; None while it goes on."""
    stamp = timestamp(now)
    if pods.exceed(job.spec.backoff_limit):
        return Condition(
            "Failed",
            "True",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
            stamp,
        )
    deadline, started = job.spec.active_deadline_seconds, job.status.start_time
    if (
        deadline is not None
        and started is not None
        and not job.spec.suspend
        and now >= seconds(started) + deadline
    ):
        return Condition(
            "Failed",
            "True",
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
            stamp,
        )
    goal = job.spec.required_completions
    is_complete = (
        bool(pods.counted.succeeded) and not pods.active
        if goal is None
        else len(_completions(job, pods.counted)) >= goal
    )
    return (
        Condition(
            "Complete",
            "True",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
            stamp,
        )
        if is_complete
        else None
    )


def _adjust_pods(
    cluster: Cluster, job: Job, pods: _Pods, serials: Serials, now: float
) -> Iterator[Change | Wake]:
    """Yield the creation of missing pods, or when to create them."""
    if job.spec.active_deadline_seconds is not None and not job.spec.suspend:
        yield Wake(
            seconds(job.status.start_time or timestamp(now)) + job.spec.active_deadline_seconds
        )
    missing = _desired_pods(job, pods) - len(pods.active)
    if missing <= 0:
        return
    not_before = _back_off_until(pods)
    if now < not_before:
        yield Wake(not_before)
        return
    taken = {pod.name for pod in cluster.owned_by(Pod, job)}
    for index in (
        _free_indexes(job, pods)[:missing]
        if job.spec.completion_mode == "Indexed"
        else [None] * missing
    ):
        base = job.name if index is None else f"{job.name}-{index}"
        name, serials[job] = child_name(base, serials[job], taken, job.namespace)
        taken.add(name)
        yield from create_pod(cluster, job, _pod(job, name, index, serials, now), SOURCE, now)


def _new_tracking(job: Job) -> JobTracking:
    return JobTracking(ObjectMeta(name=job.name, namespace=job.namespace), job.uid)


def _counted(job: Job, owned: Sequence[Pod], before: JobTracking) -> JobTracking:
    """Return the counted pods, with those that have finished or were deleted since `before`.

    Source: pkg/controller/job/job_controller.go (trackJobStatusAndRemoveFinalizers, isPodFailed).
    """
    succeeded, failed, last_success = (
        dict(before.succeeded),
        dict(before.failed),
        before.last_success,
    )
    for pod in owned:
        if pod.uid in succeeded or pod.uid in failed or pod.uid in before.released:
            continue
        if pod.status.phase == "Succeeded":
            is_indexed = job.spec.completion_mode == "Indexed"
            succeeded[pod.uid] = pod.labels.get(COMPLETION_INDEX, "") if is_indexed else pod.name
            last_success = max(last_success, _finished_at(pod))
        elif pod.status.phase == "Failed" or pod.is_terminating:
            deleted = pod.metadata.deletion_timestamp
            failed[pod.uid] = _finished_at(pod) or (seconds(deleted) if deleted else 0.0)
    return structs.replace(before, succeeded=succeeded, failed=failed, last_success=last_success)


def _surplus(job: Job, pods: _Pods, ended: Condition | None) -> tuple[Pod, ...]:
    """Return the active pods that the Job does not need any more."""
    return pods.active if ended is not None else pods.active[_desired_pods(job, pods) :]


def _desired_pods(job: Job, pods: _Pods) -> int:
    """Return the number of pods that should run now."""
    if job.spec.suspend:
        return 0
    if job.spec.required_completions is None:
        return len(pods.active) if pods.counted.succeeded else job.spec.max_parallel
    return min(
        job.spec.max_parallel, job.spec.required_completions - len(_completions(job, pods.counted))
    )


def _completions(job: Job, counted: JobTracking) -> list[str]:
    """Return the completions so far, sorted for an indexed Job.

    Each succeeded pod counts by its name, or in an indexed Job each completion index once.
    """
    if job.spec.completion_mode == "NonIndexed":
        return list(counted.succeeded.values())
    return sorted(set(counted.succeeded.values()), key=int)


def _free_indexes(job: Job, pods: _Pods) -> list[int]:
    used = {pod.labels.get(COMPLETION_INDEX) for pod in pods.active}
    used |= set(pods.counted.succeeded.values())
    return [index for index in range(job.spec.completions or 0) if str(index) not in used]


def _back_off_until(pods: _Pods) -> float:
    """Return the earliest time for the next pod, in seconds since 1970; 0 when there is none.

    Failures before the latest success do not count.
    """
    counted = pods.counted
    failures = [at for at in counted.failed.values() if at > counted.last_success]
    return (
        max(failures) + min(FIRST_BACK_OFF_S * 2 ** min(len(failures) - 1, 10), MAX_BACK_OFF_S)
        if failures
        else 0.0
    )


def _finished_at(pod: Pod) -> float:
    """Return the time at which the last container of a pod terminated; 0 when none has."""
    terminations = (status.state.terminated for status in pod.container_statuses)
    return max(
        (
            seconds(termination.finished_at)
            for termination in terminations
            if termination is not None and termination.finished_at
        ),
        default=0.0,
    )


def _pod(job: Job, name: str, index: int | None, serials: Serials, now: float) -> Pod:
    labels = {
        **dict.fromkeys(JOB_NAME_LABELS, job.name),
        **dict.fromkeys(CONTROLLER_UID_LABELS, job.uid),
    }
    uid = serials.child_uid("Pod", job, name)
    if index is None:
        return new_pod(job, job.spec.template, name, uid, now, labels)
    pod = new_pod(
        job,
        job.spec.template,
        name,
        uid,
        now,
        {**labels, COMPLETION_INDEX: str(index)},
        hostname=f"{job.name}-{index}",
    )
    annotations = {**pod.metadata.annotations, COMPLETION_INDEX: str(index)}
    return structs.replace(pod, metadata=structs.replace(pod.metadata, annotations=annotations))


def _delete_after_ttl(job: Job, now: float) -> Iterator[Change | Wake]:
    """Yield the deletion of a finished Job after its TTL, or a Wake for that time."""
    ttl_s = job.spec.ttl_seconds_after_finished
    finished = next(
        (c.last_transition_time for c in job.status.conditions if c.type == job.outcome), None
    )
    if ttl_s is not None and finished is not None:
        yield deletion(job) if now >= seconds(finished) + ttl_s else Wake(seconds(finished) + ttl_s)


def _event_text(ended: Condition) -> tuple[str, str]:
    """Return (reason, message) of the event that reports the end of a Job."""
    return (
        ("Completed", "Job completed")
        if ended.type == "Complete"
        else (ended.reason, ended.message)
    )


def _status(job: Job, pods: _Pods, ended: Condition | None, now: float) -> JobStatus:
    completions = _completions(job, pods.counted)
    return JobStatus(
        active=0 if ended else len(pods.active),
        ready=0 if ended else sum(pod.is_ready for pod in pods.active),
        succeeded=len(completions),
        failed=len(pods.counted.failed),
        start_time=None if job.spec.suspend else job.status.start_time or timestamp(now),
        completion_time=timestamp(now) if ended and ended.type == "Complete" else None,
        completed_indexes=(
            _intervals([int(index) for index in completions])
            if job.spec.completion_mode == "Indexed"
            else ""
        ),
        conditions=(ended,) if ended else (),
    )


def _intervals(indexes: Sequence[int]) -> str:
    """Return ascending numbers as text, three or more in a row as an interval: `0,1,4-6`.

    Source: pkg/controller/job/indexed_job_utils.go (orderedIntervals.serialize).
    """
    intervals: list[list[int]] = []
    for index in indexes:
        if intervals and index == intervals[-1][1] + 1:
            intervals[-1][1] = index
        else:
            intervals.append([index, index])
    return ",".join(
        f"{first}" if first == last else f"{first}{',' if last == first + 1 else '-'}{last}"
        for first, last in intervals
    )
