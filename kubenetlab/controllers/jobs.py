"""job controller: pods until enough of them have ended well, or too many have failed.

After each failure since the last success the next pod waits 10, 20, 40 … 600 seconds. What has ended stays, to be looked at, until the Job is deleted.
Source: k8s.io/kubernetes pkg/controller/job/{job_controller.go,indexed_job_utils.go,backoff_utils.go}.
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
from kubenetlab.api.meta import Condition, seconds, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.children import create_pod, delete_pod, new_pod
from kubenetlab.controllers.events import event
from kubenetlab.controllers.naming import child_name
from kubenetlab.controllers.serials import Serials
from kubenetlab.controllers.wake import Wake

SOURCE = "job-controller"

WATCHES: Final[tuple[Kind, ...]] = (Job, Pod)

FIRST_BACK_OFF_S = 10
MAX_BACK_OFF_S = 600


class _Pods(Struct, frozen=True):
    """A Job's pods, by how they are."""

    active: tuple[Pod, ...]
    succeeded: tuple[Pod, ...]
    failed: tuple[Pod, ...]

    @property
    def restarts(self) -> int:
        """Restarts of containers in the pods that go on, as far as restartPolicy OnFailure makes them."""
        restarted = [pod for pod in self.active if pod.spec.restart_policy == "OnFailure"]
        return sum(status.restart_count for pod in restarted for status in pod.container_statuses)

    def exceed(self, limit: int) -> bool:
        """Return True when the Job has failed: more failed pods than the backoffLimit, or as many restarts (with 0 any)."""
        return len(self.failed) > limit or self.restarts >= max(limit, 1)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change | Wake]:
    serials = Serials(cluster)
    for job in cluster.all(Job):
        owned = cluster.owned_by(Pod, job)
        pods = _Pods(
            tuple(pod for pod in owned if not pod.is_finished and not pod.is_terminating),
            tuple(pod for pod in owned if pod.status.phase == "Succeeded"),
            tuple(pod for pod in owned if pod.status.phase == "Failed"),
        )
        if job.outcome:
            yield from _after_the_end(job, now)
            continue
        ended = _ended(job, pods, now)
        if ended is not None:
            for pod in pods.active:
                yield from delete_pod(cluster, job, pod, SOURCE, now)
            yield event(
                cluster,
                job,
                "Normal" if ended.type == "Complete" else "Warning",
                *_told(ended),
                SOURCE,
                now,
            )
        else:
            yield from _next(cluster, job, pods, serials, now)
        status = _status(job, pods, ended, now)
        if status != job.status:
            yield structs.replace(job, status=status)
    yield from serials.changes()


def _ended(job: Job, pods: _Pods, now: float) -> Condition | None:
    """The condition with which the Job ends now; None while it goes on."""
    stamp = timestamp(now)
    if pods.exceed(job.spec.backoff_limit):
        return Condition(
            "Failed",
            "True",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
            stamp,
        )
    deadline, begun = job.spec.active_deadline_seconds, job.status.start_time
    if (
        deadline is not None
        and begun is not None
        and not job.spec.suspend
        and now >= seconds(begun) + deadline
    ):
        return Condition(
            "Failed",
            "True",
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
            stamp,
        )
    wanted = job.spec.goal
    is_complete = (
        bool(pods.succeeded) and not pods.active
        if wanted is None
        else len(_done(job, pods.succeeded)) >= wanted
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


def _next(
    cluster: Cluster, job: Job, pods: _Pods, serials: Serials, now: float
) -> Iterator[Change | Wake]:
    """Pods that are missing, and those that are too many."""
    if job.spec.active_deadline_seconds is not None and not job.spec.suspend:
        yield Wake(
            seconds(job.status.start_time or timestamp(now)) + job.spec.active_deadline_seconds
        )
    wanted = 0 if job.spec.suspend else _wanted(job, pods)
    for pod in pods.active[wanted:]:
        yield from delete_pod(cluster, job, pod, SOURCE, now)
    missing = wanted - len(pods.active)
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


def _wanted(job: Job, pods: _Pods) -> int:
    """How many pods should run now."""
    if job.spec.goal is None:
        return len(pods.active) if pods.succeeded else job.spec.at_a_time
    return min(job.spec.at_a_time, job.spec.goal - len(_done(job, pods.succeeded)))


def _done(job: Job, succeeded: Sequence[Pod]) -> list[str]:
    """What counts as done: each pod, or in an indexed Job each index once."""
    if job.spec.completion_mode == "NonIndexed":
        return [pod.name for pod in succeeded]
    return sorted({pod.labels.get(COMPLETION_INDEX, "") for pod in succeeded}, key=int)


def _free_indexes(job: Job, pods: _Pods) -> list[int]:
    busy = {pod.labels.get(COMPLETION_INDEX) for pod in (*pods.active, *pods.succeeded)}
    return [index for index in range(job.spec.completions or 0) if str(index) not in busy]


def _back_off_until(pods: _Pods) -> float:
    """Return when the next pod may be made: a failure before the latest success does not count any more."""
    last_success = max(map(_finished_at, pods.succeeded), default=0.0)
    failures = [end for pod in pods.failed if (end := _finished_at(pod)) > last_success]
    return (
        max(failures) + min(FIRST_BACK_OFF_S * 2 ** min(len(failures) - 1, 10), MAX_BACK_OFF_S)
        if failures
        else 0.0
    )


def _finished_at(pod: Pod) -> float:
    """Return when the last of a pod's containers ended; 0 where none has."""
    ends = (status.state.terminated for status in pod.container_statuses)
    return max(
        (seconds(end.finished_at) for end in ends if end is not None and end.finished_at),
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


def _after_the_end(job: Job, now: float) -> Iterator[Change | Wake]:
    """A Job with a time to live is deleted when that is over."""
    lives = job.spec.ttl_seconds_after_finished
    ended = next(
        (c.last_transition_time for c in job.status.conditions if c.type == job.outcome), None
    )
    if lives is not None and ended is not None:
        yield deletion(job) if now >= seconds(ended) + lives else Wake(seconds(ended) + lives)


def _told(ended: Condition) -> tuple[str, str]:
    """(reason, message) of the event."""
    return (
        ("Completed", "Job completed")
        if ended.type == "Complete"
        else (ended.reason, ended.message)
    )


def _status(job: Job, pods: _Pods, ended: Condition | None, now: float) -> JobStatus:
    done = _done(job, pods.succeeded)
    return JobStatus(
        active=0 if ended else len(pods.active),
        ready=0 if ended else sum(pod.is_ready for pod in pods.active),
        succeeded=len(done),
        failed=len(pods.failed),
        start_time=None if job.spec.suspend else job.status.start_time or timestamp(now),
        completion_time=timestamp(now) if ended and ended.type == "Complete" else None,
        completed_indexes=",".join(done) if job.spec.completion_mode == "Indexed" else "",
        conditions=(ended,) if ended else (),
    )
