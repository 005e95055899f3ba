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
"""More than any lab can hold; Kubernetes itself takes 2³¹ − 1, and would never get there."""

Replicas = Annotated[int, Meta(ge=0, le=MAX_REPLICAS, title="a number of replicas")]

CONTROLLER_REVISION_LABEL = "controller-revision-hash"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"
STATEFUL_POD_LABEL = "statefulset.kubernetes.io/pod-name"
TEMPLATE_HASH_LABEL = "pod-template-hash"
REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
RESTARTED_ANNOTATION = "kubectl.kubernetes.io/restartedAt"
"""On a template: when `rollout restart` last asked for new pods."""


class ReplicaSetSpec(Record, kw_only=True, frozen=True):
    """How many pods, which are counted, and what a new one is made from."""

    replicas: Replicas = 1
    selector: LabelSelector
    """Must match the labels of the template, and stays as it is."""
    template: PodTemplateSpec
    min_ready_seconds: Unmodelled = None


class ReplicaSetStatus(Record, frozen=True):
    """How many of the pods there are, and are ready."""

    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: Unmodelled = None


class ReplicaSet(Resource, frozen=True):
    """Keeps a number of equal pods running."""

    api_version = "apps/v1"
    kind = "ReplicaSet"
    plural = "replicasets"
    short_names = ("rs",)

    metadata: ObjectMeta
    spec: ReplicaSetSpec
    status: ReplicaSetStatus = ReplicaSetStatus()


class ReplicationControllerSpec(Record, kw_only=True, frozen=True):
    """As a ReplicaSet's, with a selector of equal labels; without one it is the template's."""

    replicas: Replicas = 1
    selector_labels: Labels = field(default={}, name="selector")
    template: PodTemplateSpec
    min_ready_seconds: Unmodelled = None

    @property
    def selector(self) -> LabelSelector:
        return LabelSelector(self.selector_labels or self.template.metadata.labels)


class ReplicationController(Resource, frozen=True):
    """What ReplicaSets were before there were Deployments; of the core group."""

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
    """How far a rolling update may go above and below the wanted number of pods: a number, or a share of it."""

    max_surge: Pods | Percentage = "25%"
    max_unavailable: Pods | Percentage = "25%"


class DeploymentStrategy(Record, frozen=True):
    """How the pods of an old template are replaced: a few at a time, or all at once before the new ones come."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(Record, kw_only=True, frozen=True):
    """How many pods of which template; a new template gets a new ReplicaSet."""

    replicas: Replicas = 1
    selector: LabelSelector
    """Must match the labels of the template, and stays as it is."""
    template: PodTemplateSpec
    strategy: DeploymentStrategy = DeploymentStrategy()
    min_ready_seconds: Unmodelled = None
    paused: bool = False
    """True: a changed template waits; the number of pods is still kept."""
    progress_deadline_seconds: Unmodelled = None
    revision_history_limit: Pods = 10
    """How many ReplicaSets of former templates are kept without pods."""


class DeploymentStatus(Record, frozen=True):
    """How far the pods of the newest template have come."""

    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    collision_count: Unmodelled = None


class Deployment(Resource, frozen=True):
    """Keeps pods running and replaces them when their template changes."""

    api_version = "apps/v1"
    kind = "Deployment"
    plural = "deployments"
    short_names = ("deploy",)

    metadata: ObjectMeta
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class StatefulSetRollingUpdate(Record, frozen=True):
    """From the top down to `partition`: what is below it keeps its template."""

    partition: Pods = 0
    """Pods with a lower number keep the old template."""
    max_unavailable: Unmodelled = None


class StatefulSetUpdateStrategy(Record, frozen=True):
    """How pods of an old template are replaced: one after the other from the top, or when somebody deletes them."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling_update: StatefulSetRollingUpdate = StatefulSetRollingUpdate()


class StatefulSetOrdinals(Record, frozen=True):
    """Where the numbers begin."""

    start: Pods = 0


class StatefulSetSpec(Record, kw_only=True, frozen=True):
    """How many numbered pods, and the headless Service that names them."""

    replicas: Replicas = 1
    selector: LabelSelector
    """Must match the labels of the template, and stays as it is."""
    template: PodTemplateSpec
    service_name: str = ""
    """The headless Service by which its pods have names."""
    pod_management_policy: Literal["OrderedReady", "Parallel"] = "OrderedReady"
    """Parallel: all at once, none waits for the one before it."""
    update_strategy: StatefulSetUpdateStrategy = StatefulSetUpdateStrategy()
    ordinals: StatefulSetOrdinals = StatefulSetOrdinals()
    min_ready_seconds: Unmodelled = None
    persistent_volume_claim_retention_policy: Unmodelled = None
    revision_history_limit: Unmodelled = None
    volume_claim_templates: Unmodelled = None


class StatefulSetStatus(Record, frozen=True):
    """How many of the pods there are, are ready, and are of which template."""

    replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_replicas: int = 0
    updated_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    observed_generation: int = 0
    conditions: Unmodelled = None
    collision_count: Unmodelled = None


class StatefulSet(Resource, frozen=True):
    """Pods with numbers, which keep their names when they are replaced."""

    api_version = "apps/v1"
    kind = "StatefulSet"
    plural = "statefulsets"
    short_names = ("sts",)

    metadata: ObjectMeta
    spec: StatefulSetSpec
    status: StatefulSetStatus = StatefulSetStatus()


class DaemonSetRollingUpdate(Record, frozen=True):
    """How many nodes may be without a pod of the DaemonSet, or have two, while it is updated."""

    max_unavailable: Pods | Percentage = 1
    max_surge: Unmodelled = None


class DaemonSetUpdateStrategy(Record, frozen=True):
    """How pods of an old template are replaced: node by node, or when somebody deletes them."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling_update: DaemonSetRollingUpdate = DaemonSetRollingUpdate()


class DaemonSetSpec(Record, kw_only=True, frozen=True):
    """What runs on every node that fits."""

    selector: LabelSelector
    """Must match the labels of the template, and stays as it is."""
    template: PodTemplateSpec
    update_strategy: DaemonSetUpdateStrategy = DaemonSetUpdateStrategy()
    min_ready_seconds: Unmodelled = None
    revision_history_limit: Unmodelled = None


class DaemonSetStatus(Record, frozen=True):
    """On how many nodes it should run, and does."""

    desired_number_scheduled: int = 0
    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    number_ready: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    updated_number_scheduled: int = 0
    observed_generation: int = 0
    conditions: Unmodelled = None
    collision_count: Unmodelled = None


class DaemonSet(Resource, frozen=True):
    """One pod on every node that fits."""

    api_version = "apps/v1"
    kind = "DaemonSet"
    plural = "daemonsets"
    short_names = ("ds",)

    metadata: ObjectMeta
    spec: DaemonSetSpec
    status: DaemonSetStatus = DaemonSetStatus()


Workload = Deployment | ReplicaSet | ReplicationController | StatefulSet | DaemonSet
Scalable = Deployment | ReplicaSet | ReplicationController | StatefulSet
"""Those that have a number of replicas."""
Restartable = Deployment | StatefulSet | DaemonSet
"""Those whose pods follow their template."""
