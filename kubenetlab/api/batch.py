"""Job: pods that run to completion.

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
"""Label and annotation with the completion index of an Indexed Job's pod."""


class JobSpec(Record, kw_only=True, frozen=True):
    """Desired state of a Job."""

    template: PodTemplateSpec
    """Template of the pods that are created."""
    completions: Count | None = None
    """Number of pods that must succeed."""
    parallelism: Count | None = None
    """Maximum number of pods that run at the same time. Defaults to 1."""
    backoff_limit: Count = 6
    """Number of pod failures after which the Job is marked failed."""
    completion_mode: Literal["NonIndexed", "Indexed"] = "NonIndexed"
    """Indexed gives each pod a completion index, and a pod of each index must succeed."""
    active_deadline_seconds: Seconds | None = None
    """Time that the Job may be active before it is marked failed, in seconds."""
    ttl_seconds_after_finished: Seconds | None = None
    """Time after which a finished Job is deleted, in seconds. Without a value it is kept."""
    suspend: bool = False
    """If true, the Job has no pods until the field is set to false."""
    selector: LabelSelector | None = None
    """Label query over the pods to count. Set by the Job itself."""
    manual_selector: Unmodelled = None
    backoff_limit_per_index: Unmodelled = None
    managed_by: Unmodelled = None
    max_failed_indexes: Unmodelled = None
    pod_failure_policy: Unmodelled = None
    pod_replacement_policy: Unmodelled = None
    success_policy: Unmodelled = None

    @property
    def required_completions(self) -> int | None:
        """Number of pods that must succeed; None for a work queue.

        A work queue sets only `parallelism`: it is complete once a pod has succeeded and no pod
        is active any more.
        """
        return 1 if self.completions is None and self.parallelism is None else self.completions

    @property
    def max_parallel(self) -> int:
        """Maximum number of pods that run at the same time."""
        return 1 if self.parallelism is None else self.parallelism


class JobStatus(Record, frozen=True):
    """Observed state of a Job."""

    active: int = 0
    """Number of pending and running pods that are not terminating."""
    ready: int = 0
    """Number of pods with the condition Ready."""
    succeeded: int = 0
    """Number of pods of phase Succeeded."""
    failed: int = 0
    """Number of pods of phase Failed."""
    start_time: str | None = None
    """Time at which the Job started, or was resumed."""
    completion_time: str | None = None
    """Time at which the Job completed."""
    completed_indexes: str = ""
    """Completion indexes that have succeeded, separated by commas. Only with mode Indexed."""
    conditions: tuple[Condition, ...] = ()
    terminating: Unmodelled = None
    uncounted_terminated_pods: Unmodelled = None


class Job(Resource, frozen=True):
    """Set of pods that runs until a given number of them has succeeded."""

    api_version = "batch/v1"
    kind = "Job"
    plural = "jobs"

    metadata: ObjectMeta
    spec: JobSpec
    status: JobStatus = JobStatus()

    @property
    def outcome(self) -> str:
        """Condition that ended the Job: Complete or Failed; empty while it runs."""
        return next(
            (
                c.type
                for c in self.status.conditions
                if c.type in ("Complete", "Failed") and c.status == "True"
            ),
            "",
        )
