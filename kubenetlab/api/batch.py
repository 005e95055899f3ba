"""Job: pods that run to an end.

Source: k8s.io/api batch/v1/types.go (1.33).
"""

from typing import Annotated, Final, Literal

from msgspec import Meta

from kubenetlab.api.apps import MAX_REPLICAS
from kubenetlab.api.meta import Condition, LabelSelector, ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.pods import PodTemplateSpec

Count = Annotated[int, Meta(ge=0, le=MAX_REPLICAS, title="a number of pods")]
Seconds = Annotated[int, Meta(ge=0, title="a number of seconds")]

JOB_NAME_LABELS: Final = ("batch.kubernetes.io/job-name", "job-name")
CONTROLLER_UID_LABELS: Final = ("batch.kubernetes.io/controller-uid", "controller-uid")
COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
"""Label and annotation of an indexed Job's pods."""


class JobSpec(Record, kw_only=True, frozen=True):
    """How many pods must end well, and how many may run at a time."""

    template: PodTemplateSpec
    completions: Count | None = None
    """How many pods must end well."""
    parallelism: Count | None = None
    """How many run at a time."""
    backoff_limit: Count = 6
    """After how many failures the Job has failed."""
    completion_mode: Literal["NonIndexed", "Indexed"] = "NonIndexed"
    """Indexed: each pod has a number, and each number must end well."""
    active_deadline_seconds: Seconds | None = None
    """After how long the Job has failed, whatever its pods do."""
    ttl_seconds_after_finished: Seconds | None = None
    """How long it stays when it has ended."""
    suspend: bool = False
    """True: no pod runs until it is false."""
    selector: LabelSelector | None = None
    manual_selector: Unmodelled = None
    backoff_limit_per_index: Unmodelled = None
    managed_by: Unmodelled = None
    max_failed_indexes: Unmodelled = None
    pod_failure_policy: Unmodelled = None
    pod_replacement_policy: Unmodelled = None
    success_policy: Unmodelled = None

    @property
    def goal(self) -> int | None:
        """How many must end well. None, where only parallelism is given: when one has, the others are waited for."""
        return 1 if self.completions is None and self.parallelism is None else self.completions

    @property
    def at_a_time(self) -> int:
        """How many may run at a time."""
        return 1 if self.parallelism is None else self.parallelism


class JobStatus(Record, frozen=True):
    """How far it has come."""

    active: int = 0
    ready: int = 0
    succeeded: int = 0
    failed: int = 0
    start_time: str | None = None
    completion_time: str | None = None
    completed_indexes: str = ""
    conditions: tuple[Condition, ...] = ()
    terminating: Unmodelled = None
    uncounted_terminated_pods: Unmodelled = None


class Job(Resource, frozen=True):
    """Runs pods until enough of them have ended well."""

    api_version = "batch/v1"
    kind = "Job"
    plural = "jobs"

    metadata: ObjectMeta
    spec: JobSpec
    status: JobStatus = JobStatus()

    @property
    def outcome(self) -> str:
        """How it ended, Complete or Failed; empty while it goes on."""
        return next(
            (
                c.type
                for c in self.status.conditions
                if c.type in ("Complete", "Failed") and c.status == "True"
            ),
            "",
        )
