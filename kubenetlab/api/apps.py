"""Deployment, ReplicaSet, StatefulSet and DaemonSet: pods made from a template.

Source: k8s.io/api apps/v1/types.go (1.33).
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from kubenetlab.api.meta import (
    Condition,
    Labels,
    LabelSelector,
    ObjectMeta,
    Record,
    Resource,
    Unmodelled,
)
from kubenetlab.api.pods import PodTemplateSpec

MAX_REPLICAS = 20_000
"""Maximum number of replicas: more than a lab can hold. Kubernetes accepts up to 2³¹ − 1."""

Replicas = Annotated[int, Meta(ge=0, le=MAX_REPLICAS, title="a number of replicas")]

CONTROLLER_REVISION_LABEL = "controller-revision-hash"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"
STATEFUL_POD_LABEL = "statefulset.kubernetes.io/pod-name"
TEMPLATE_HASH_LABEL = "pod-template-hash"
REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
RESTARTED_ANNOTATION = "kubectl.kubernetes.io/restartedAt"
"""Annotation of a pod template: time of the latest `rollout restart`."""


class ReplicaSetSpec(Record, kw_only=True, frozen=True):
    """Desired state of a ReplicaSet."""

    replicas: Replicas = 1
    """Number of desired pods."""
    selector: LabelSelector
    """Label query over the pods to count. Must match the labels of the template. Immutable."""
    template: PodTemplateSpec
    """Template of the pods that are created."""
    min_ready_seconds: Unmodelled = None


class ReplicaSetStatus(Record, frozen=True):
    """Observed state of a ReplicaSet."""

    replicas: int = 0
    """Number of existing pods."""
    fully_labeled_replicas: int = 0
    """Number of pods that have all labels of the template."""
    ready_replicas: int = 0
    """Number of pods with the condition Ready."""
    available_replicas: int = 0
    """Number of available pods."""
    observed_generation: int = 0
    """Generation of the spec that this status refers to."""
    conditions: Unmodelled = None


class ReplicaSet(Resource, frozen=True):
    """Set of identical pods of which a given number is kept running."""

    api_version = "apps/v1"
    kind = "ReplicaSet"
    plural = "replicasets"
    short_names = ("rs",)

    metadata: ObjectMeta
    spec: ReplicaSetSpec
    status: ReplicaSetStatus = ReplicaSetStatus()


class ReplicationControllerSpec(Record, kw_only=True, frozen=True):
    """Desired state of a ReplicationController."""

    replicas: Replicas = 1
    """Number of desired pods."""
    selector_labels: Labels = field(default={}, name="selector")
    """Labels of the pods to count. Defaults to the labels of the template."""
    template: PodTemplateSpec
    """Template of the pods that are created."""
    min_ready_seconds: Unmodelled = None

    @property
    def selector(self) -> LabelSelector:
        return LabelSelector(self.selector_labels or self.template.metadata.labels)


class ReplicationController(Resource, frozen=True):
    """Predecessor of ReplicaSet, in the core group: keeps a given number of pods running."""

    api_version = "v1"
    kind = "ReplicationController"
    plural = "replicationcontrollers"
    short_names = ("rc",)

    metadata: ObjectMeta
    spec: ReplicationControllerSpec
    status: ReplicaSetStatus = ReplicaSetStatus()


Percentage = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]+%$", title="a number of pods or a percentage such as 25%", examples=["25%"]
    ),
]
Pods = Annotated[int, Meta(ge=0, title="a number of pods")]


class RollingUpdate(Record, frozen=True):
    """Limits of a rolling update, each a number of pods or a percentage of the desired pods."""

    max_surge: Pods | Percentage = "25%"
    """Maximum number of pods above the desired number."""
    max_unavailable: Pods | Percentage = "25%"
    """Maximum number of pods that may be unavailable."""


class DeploymentStrategy(Record, frozen=True):
    """Strategy that replaces the pods of an old template."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    """RollingUpdate replaces some pods at a time. Recreate deletes all old pods first."""
    rolling_update: RollingUpdate | None = None
    """Limits of the update. Only with type RollingUpdate."""


class DeploymentSpec(Record, kw_only=True, frozen=True):
    """Desired state of a Deployment."""

    replicas: Replicas = 1
    """Number of desired pods."""
    selector: LabelSelector
    """Label query over the pods to count. Must match the labels of the template. Immutable."""
    template: PodTemplateSpec
    """Template of the pods. A change creates a new ReplicaSet."""
    strategy: DeploymentStrategy = DeploymentStrategy()
    """Strategy that replaces existing pods with new ones."""
    min_ready_seconds: Unmodelled = None
    paused: bool = False
    """If true, a changed template is not rolled out. Scaling still works."""
    progress_deadline_seconds: Unmodelled = None
    revision_history_limit: Pods = 10
    """Number of old ReplicaSets without pods to keep."""


class DeploymentStatus(Record, frozen=True):
    """Observed state of a Deployment."""

    replicas: int = 0
    """Number of existing pods, of all templates."""
    updated_replicas: int = 0
    """Number of pods of the current template."""
    ready_replicas: int = 0
    """Number of pods with the condition Ready."""
    available_replicas: int = 0
    """Number of available pods."""
    unavailable_replicas: int = 0
    """Number of desired pods that are missing or not available."""
    observed_generation: int = 0
    """Generation of the spec that this status refers to."""
    conditions: tuple[Condition, ...] = ()
    collision_count: Unmodelled = None


class Deployment(Resource, frozen=True):
    """Set of identical pods that is kept running and updated when its template changes."""

    api_version = "apps/v1"
    kind = "Deployment"
    plural = "deployments"
    short_names = ("deploy",)

    metadata: ObjectMeta
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class StatefulSetRollingUpdate(Record, frozen=True):
    """Parameters of a rolling update of a StatefulSet."""

    partition: Pods = 0
    """Ordinal at which the update stops: pods with a lower ordinal keep the old template."""
    max_unavailable: Unmodelled = None


class StatefulSetUpdateStrategy(Record, frozen=True):
    """Strategy that replaces the pods of an old template."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    """RollingUpdate replaces one pod at a time, from the highest ordinal down. OnDelete replaces a
    pod when it is deleted."""
    rolling_update: StatefulSetRollingUpdate = StatefulSetRollingUpdate()
    """Parameters of the update. Only with type RollingUpdate."""


class StatefulSetOrdinals(Record, frozen=True):
    """Numbering of the pods of a StatefulSet."""

    start: Pods = 0
    """Ordinal of the first pod."""


class StatefulSetSpec(Record, kw_only=True, frozen=True):
    """Desired state of a StatefulSet."""

    replicas: Replicas = 1
    """Number of desired pods."""
    selector: LabelSelector
    """Label query over the pods to count. Must match the labels of the template. Immutable."""
    template: PodTemplateSpec
    """Template of the pods that are created."""
    service_name: str = ""
    """Name of the headless Service that gives the pods their DNS names."""
    pod_management_policy: Literal["OrderedReady", "Parallel"] = "OrderedReady"
    """OrderedReady creates a pod when its predecessor is ready. Parallel creates all at once."""
    update_strategy: StatefulSetUpdateStrategy = StatefulSetUpdateStrategy()
    """Strategy that replaces existing pods with new ones."""
    ordinals: StatefulSetOrdinals = StatefulSetOrdinals()
    """Numbering of the pods."""
    min_ready_seconds: Unmodelled = None
    persistent_volume_claim_retention_policy: Unmodelled = None
    revision_history_limit: Unmodelled = None
    volume_claim_templates: Unmodelled = None


class StatefulSetStatus(Record, frozen=True):
    """Observed state of a StatefulSet."""

    replicas: int = 0
    """Number of existing pods."""
    ready_replicas: int = 0
    """Number of pods with the condition Ready."""
    available_replicas: int = 0
    """Number of available pods."""
    current_replicas: int = 0
    """Number of pods of `currentRevision`."""
    updated_replicas: int = 0
    """Number of pods of `updateRevision`."""
    current_revision: str = ""
    """Revision of the template before the update."""
    update_revision: str = ""
    """Revision of the template after the update."""
    observed_generation: int = 0
    """Generation of the spec that this status refers to."""
    conditions: Unmodelled = None
    collision_count: Unmodelled = None


class StatefulSet(Resource, frozen=True):
    """Set of numbered pods that keep their names when they are replaced."""

    api_version = "apps/v1"
    kind = "StatefulSet"
    plural = "statefulsets"
    short_names = ("sts",)

    metadata: ObjectMeta
    spec: StatefulSetSpec
    status: StatefulSetStatus = StatefulSetStatus()


class DaemonSetRollingUpdate(Record, frozen=True):
    """Parameters of a rolling update of a DaemonSet."""

    max_unavailable: Pods | Percentage = 1
    """Maximum number, or percentage, of nodes without an available pod during the update."""
    max_surge: Unmodelled = None


class DaemonSetUpdateStrategy(Record, frozen=True):
    """Strategy that replaces the pods of an old template."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    """RollingUpdate replaces pods node by node. OnDelete replaces a pod when it is deleted."""
    rolling_update: DaemonSetRollingUpdate = DaemonSetRollingUpdate()
    """Parameters of the update. Only with type RollingUpdate."""


class DaemonSetSpec(Record, kw_only=True, frozen=True):
    """Desired state of a DaemonSet."""

    selector: LabelSelector
    """Label query over the pods to count. Must match the labels of the template. Immutable."""
    template: PodTemplateSpec
    """Template of the pods that are created, one on each eligible node."""
    update_strategy: DaemonSetUpdateStrategy = DaemonSetUpdateStrategy()
    """Strategy that replaces existing pods with new ones."""
    min_ready_seconds: Unmodelled = None
    revision_history_limit: Unmodelled = None


class DaemonSetStatus(Record, frozen=True):
    """Observed state of a DaemonSet."""

    desired_number_scheduled: int = 0
    """Number of nodes that should run a pod."""
    current_number_scheduled: int = 0
    """Number of nodes that run a pod and should."""
    number_misscheduled: int = 0
    """Number of nodes that run a pod and should not."""
    number_ready: int = 0
    """Number of nodes whose pod is ready."""
    number_available: int = 0
    """Number of nodes whose pod is available."""
    number_unavailable: int = 0
    """Number of nodes that should run a pod and have no available one."""
    updated_number_scheduled: int = 0
    """Number of nodes that run a pod of the current template."""
    observed_generation: int = 0
    """Generation of the spec that this status refers to."""
    conditions: Unmodelled = None
    collision_count: Unmodelled = None


class DaemonSet(Resource, frozen=True):
    """Set of pods, one on each eligible node."""

    api_version = "apps/v1"
    kind = "DaemonSet"
    plural = "daemonsets"
    short_names = ("ds",)

    metadata: ObjectMeta
    spec: DaemonSetSpec
    status: DaemonSetStatus = DaemonSetStatus()


Workload = Deployment | ReplicaSet | ReplicationController | StatefulSet | DaemonSet
Scalable = Deployment | ReplicaSet | ReplicationController | StatefulSet
"""Workloads with a number of replicas."""
Restartable = Deployment | StatefulSet | DaemonSet
"""Workloads that replace their pods when the template changes."""
