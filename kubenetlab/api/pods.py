"""Pod: containers that share one network namespace.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from collections.abc import Mapping
from typing import Literal

from kubenetlab.api.annotation_values import names_in, split_list
from kubenetlab.api.containers import Container, NotNegative
from kubenetlab.api.meta import Condition, ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.scheduling import Affinity, TopologySpreadConstraint

REAL_COMMANDS_ANNOTATION = "kubenetlab.dev/real-commands"
"""Annotation of a pod: `"true"` runs its containers' commands as programs of this machine."""
ADDRESSES_ANNOTATION = "kubenetlab.dev/addresses"
"""Annotation of a pod: its requested addresses, one per IP family, separated by commas."""
CALICO_ADDRESSES_ANNOTATION = "cni.projectcalico.org/ipAddrs"
"""Annotation of a pod: its requested addresses as a JSON list, as Calico defines it."""
CALICO_POOLS_ANNOTATIONS = {
    4: "cni.projectcalico.org/ipv4pools",
    6: "cni.projectcalico.org/ipv6pools",
}
"""IP version → annotation of a pod or namespace: names or ranges of IPPools as a JSON list."""
MAC_ANNOTATION = "kubenetlab.dev/mac"
"""Annotation of a pod: MAC address for CNI plugins with the capability `mac`."""
POOL_ANNOTATION = "kubenetlab.dev/pool"
"""Annotation of a pod: name of the pool that its addresses are allocated from."""
READY_ANNOTATION = "kubenetlab.dev/ready"
"""Annotation of a pod: `"false"` makes it unready."""
CONDITIONS_ANNOTATION = "kubenetlab.dev/conditions"
"""Annotation of a pod: conditions that a controller outside of the lab would set.

For example `example.com/load-balancer=True`; several are separated by commas. `readinessGates`
refer to them.
"""
LISTEN_ANNOTATION = "kubenetlab.dev/listen"
"""Annotation of a pod: ports that its image listens on, such as `1234/TCP,5353/UDP`.

They replace the ports that the containers declare.
"""
EXIT_CODE_ANNOTATION = "kubenetlab.dev/exit-code"
"""Annotation of a pod: exit status of its built-in programs."""
DURATION_ANNOTATION = "kubenetlab.dev/duration"
"""Annotation of a pod: time after which its built-in programs exit, such as `5s`."""


class Toleration(Record, frozen=True):
    """Toleration of a pod for taints with a matching key, value and effect."""

    key: str = ""
    """Key of the taints. An empty key with operator Exists matches all taints."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal also compares the value. Exists matches any value."""
    value: str = ""
    """Value of the taints. Must be empty with operator Exists."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taints. An empty effect matches all effects."""
    toleration_seconds: int | None = None
    """Time that the pod stays on a node with a NoExecute taint, in seconds. Unlimited if not set.
    """


class PodDNSConfigOption(Record, frozen=True):
    """Option in the resolv.conf of a pod."""

    name: str
    """Name of the option."""
    value: str | None = None
    """Value of the option."""


class PodDNSConfig(Record, frozen=True):
    """DNS parameters of a pod, merged into the resolv.conf that `dnsPolicy` generates."""

    nameservers: tuple[str, ...] = ()
    """IP addresses of name servers."""
    searches: tuple[str, ...] = ()
    """Search domains."""
    options: tuple[PodDNSConfigOption, ...] = ()
    """Resolver options."""


class HostAlias(Record, frozen=True):
    """Entry in the hosts file of a pod."""

    ip: str
    """IP address of the entry."""
    hostnames: tuple[str, ...] = ()
    """Host names for the address."""


class PodReadinessGate(Record, frozen=True):
    """Additional condition that must be True for a pod to be ready."""

    condition_type: str
    """Type of the condition in the pod's status."""


class PodSchedulingGate(Record, frozen=True):
    """Gate that keeps a pod from being scheduled until the gate is removed."""

    name: str
    """Name of the gate, unique in the pod."""


class PodSpec(Record, frozen=True):
    """Desired state of a Pod."""

    containers: tuple[Container, ...] = ()
    """Containers of the pod. At least one is required."""
    init_containers: tuple[Container, ...] = ()
    """Containers that run to completion before `containers`, one after the other.

    Sidecars, with `restartPolicy: Always`, keep running.
    """
    node_name: str = ""
    """Name of the node to run on. Chosen by the scheduler if empty."""
    node_selector: Mapping[str, str] = {}
    """Labels that the node must have."""
    affinity: Affinity = Affinity()
    """Scheduling constraints by labels of nodes and of other pods."""
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    """Constraints on the distribution of pods over topology domains."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations of the pod for taints of nodes."""
    host_network: bool = False
    """If true, the pod uses the network namespace and the addresses of its node."""
    hostname: str = ""
    """Host name of the pod. Defaults to the name of the pod."""
    subdomain: str = ""
    """Name of the headless Service below which the pod gets a DNS name, with `hostname`."""
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    """Restart policy of all containers of the pod."""
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] = (
        "ClusterFirst"
    )
    """Origin of the pod's resolv.conf.

    ClusterFirst uses the cluster's DNS, with hostNetwork only as ClusterFirstWithHostNet. Default
    and None use only `dnsConfig`: the nodes of a lab have no name servers of their own.
    """
    dns_config: PodDNSConfig = PodDNSConfig()
    """Additional DNS parameters."""
    host_aliases: tuple[HostAlias, ...] = ()
    """Additional entries for the pod's hosts file."""
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    """Additional conditions that must be True for the pod to be ready."""
    scheduling_gates: tuple[PodSchedulingGate, ...] = ()
    """Gates that must be removed before the pod is scheduled."""
    termination_grace_period_seconds: NotNegative = 30
    """Time that preStop hooks and programs have to end before they are killed, in seconds.

    Built-in programs end as soon as no node sends packets to them any more.
    """
    enable_service_links: bool = True
    """If true, environment variables describe the Services of the namespace."""

    active_deadline_seconds: Unmodelled = None
    automount_service_account_token: Unmodelled = None
    ephemeral_containers: Unmodelled = None
    host_ipc: Unmodelled = None
    host_pid: Unmodelled = None
    host_users: Unmodelled = None
    hostname_override: Unmodelled = None
    image_pull_secrets: Unmodelled = None
    os: Unmodelled = None
    overhead: Unmodelled = None
    preemption_policy: Unmodelled = None
    priority: Unmodelled = None
    priority_class_name: Unmodelled = None
    resource_claims: Unmodelled = None
    resources: Unmodelled = None
    runtime_class_name: Unmodelled = None
    scheduler_name: Unmodelled = None
    security_context: Unmodelled = None
    service_account: str = ""
    """Former name of `serviceAccountName`."""
    service_account_name: str = ""
    """Service account of the pod, by which policies of CNI plugins can select it."""
    set_hostname_as_fqdn: Unmodelled = None
    share_process_namespace: Unmodelled = None
    """The containers of a pod always share one PID namespace in the lab."""
    volumes: Unmodelled = None

    @property
    def host_ports(self) -> tuple[tuple[str, str, int], ...]:
        """(node address, protocol, port) of each port of the node that the pod occupies.

        The address is empty for all addresses of the node. With hostNetwork every declared port is
        one of the node.
        """
        ports = [port for container in self.long_running_containers for port in container.ports]
        if self.host_network:
            return tuple((port.host_ip, port.protocol, port.container_port) for port in ports)
        return tuple(
            (port.host_ip, port.protocol, port.host_port) for port in ports if port.host_port
        )

    @property
    def long_running_containers(self) -> tuple[Container, ...]:
        """Sidecars and app containers, in the order in which they start."""
        return (
            tuple(container for container in self.init_containers if container.is_sidecar)
            + self.containers
        )

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """Init containers and app containers, in the order in which they start."""
        return self.init_containers + self.containers


class Waiting(Record, frozen=True):
    """State of a container that waits to be started or restarted."""

    reason: str = ""
    """Short reason, such as CrashLoopBackOff."""
    message: str = ""
    """Human-readable description."""


class Running(Record, frozen=True):
    """State of a running container."""

    started_at: str | None = None
    """Time at which the container was started."""


class Terminated(Record, frozen=True):
    """State of a container that has exited."""

    exit_code: int
    """Exit status of the container."""
    reason: str = ""
    """Short reason, such as Completed, Error or OOMKilled."""
    message: str = ""
    """Human-readable description."""
    started_at: str | None = None
    """Time at which the container was started."""
    finished_at: str | None = None
    """Time at which the container exited."""


class ContainerState(Record, frozen=True):
    """State of a container. At most one field is set."""

    waiting: Waiting | None = None
    """Details of a waiting container."""
    running: Running | None = None
    """Details of a running container."""
    terminated: Terminated | None = None
    """Details of a container that has exited."""


class ContainerStatus(Record, frozen=True):
    """Observed state of a container."""

    name: str
    """Name of the container."""
    state: ContainerState = ContainerState()
    """Current state."""
    last_state: ContainerState = ContainerState()
    """State in which the previous run ended."""
    ready: bool = False
    """True if the container runs and its readiness probe succeeds."""
    started: bool = False
    """True once the startup probe, if there is one, has succeeded."""
    restart_count: int = 0
    """Number of restarts."""
    image: str = ""
    """Image name of the container."""
    image_id: Unmodelled = None
    container_id: Unmodelled = None


class PodIP(Record, frozen=True):
    """Address of a pod or of its node."""

    ip: str
    """IP address."""


class PodStatus(Record, frozen=True):
    """Observed state of a Pod."""

    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Pending"
    """Phase in the lifecycle of the pod."""
    conditions: tuple[Condition, ...] = ()
    """Conditions of the pod, such as PodScheduled and Ready."""
    host_ip: str = ""
    """Address of the node that the pod is bound to."""
    host_ips: tuple[PodIP, ...] = ()
    """Addresses of the node, one per IP family."""
    pod_ip: str = ""
    """Address of the pod, of the primary IP family."""
    pod_ips: tuple[PodIP, ...] = ()
    """Addresses of the pod, one per IP family. The first is `podIP`."""
    start_time: str | None = None
    """Time at which the kubelet of the node accepted the pod."""
    reason: str = ""
    """Short reason for the state of the pod, such as Evicted."""
    message: str = ""
    """Human-readable description of the state."""
    container_statuses: tuple[ContainerStatus, ...] = ()
    """State of each container."""
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    """State of each init container."""
    qos_class: Unmodelled = None

    def condition(self, type_: str) -> Condition | None:
        for condition in self.conditions:
            if condition.type == type_:
                return condition
        return None


class Pod(Resource, frozen=True):
    """Containers that share a network namespace, its addresses and ports, and a PID namespace."""

    api_version = "v1"
    kind = "Pod"
    plural = "pods"
    short_names = ("po",)

    metadata: ObjectMeta
    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def is_ready(self) -> bool:
        condition = self.status.condition("Ready")
        return condition is not None and condition.status == "True"

    @property
    def is_finished(self) -> bool:
        """True once all containers have ended for good: phase Succeeded or Failed."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def addresses(self) -> tuple[str, ...]:
        """IP addresses of the pod, at most one per IP family, the primary family first."""
        return tuple(entry.ip for entry in self.status.pod_ips)

    @property
    def hostname(self) -> str:
        return self.spec.hostname or self.metadata.name

    @property
    def requested_addresses(self) -> tuple[str, ...]:
        """Addresses requested by annotation; none for a pod with hostNetwork."""
        return () if self.spec.host_network else requested_addresses(self.metadata)

    def container(self, name: str) -> Container | None:
        return next(
            (container for container in self.spec.all_containers if container.name == name), None
        )

    @property
    def container_statuses(self) -> tuple[ContainerStatus, ...]:
        """Statuses of init containers and app containers, in the order in which they start."""
        return self.status.init_container_statuses + self.status.container_statuses

    def container_status(self, name: str) -> ContainerStatus | None:
        return next((status for status in self.container_statuses if status.name == name), None)


def requested_addresses(meta: ObjectMeta) -> tuple[str, ...]:
    """Return the addresses that an annotation requests.

    It is `kubenetlab.dev/addresses`, or Calico's annotation.
    """
    requested = split_list(meta.annotations.get(ADDRESSES_ANNOTATION, ""))
    return requested or names_in(meta.annotations.get(CALICO_ADDRESSES_ANNOTATION, "[]"))


def is_of_job(meta: ObjectMeta) -> bool:
    """Return True when a Job made the pod with this metadata."""
    return any(owner.kind == "Job" and owner.controller for owner in meta.owner_references)


class PodTemplateSpec(Record, kw_only=True, frozen=True):
    """Template that new pods are created from."""

    metadata: ObjectMeta = ObjectMeta()
    """Labels and annotations of the pods."""
    spec: PodSpec
    """Desired state of the pods."""
