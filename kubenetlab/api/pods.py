"""Pod: containers that share one network namespace.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from typing import Literal, get_args

from kubenetlab.api.containers import MAX_PORT, Container, NotNegative, Protocol
from kubenetlab.api.meta import Condition, ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.scheduling import Affinity, TopologySpreadConstraint

REAL_COMMANDS_ANNOTATION = "kubenetlab.dev/real-commands"
"""`"true"` on a pod runs its containers' commands, as programs of this machine."""
ADDRESSES_ANNOTATION = "kubenetlab.dev/addresses"
"""The addresses that a pod is to have: one per family, with a comma between them."""
POOL_ANNOTATION = "kubenetlab.dev/pool"
"""The pool from which a pod is to have its addresses."""
READY_ANNOTATION = "kubenetlab.dev/ready"
"""`"false"` on a pod makes it unready on purpose."""
CONDITIONS_ANNOTATION = "kubenetlab.dev/conditions"
"""Conditions of a pod's status that a controller outside of the lab would set, such as `example.com/load-balancer=True`.

Several are separated by commas. They are what `readinessGates` refer to.
"""
LISTEN_ANNOTATION = "kubenetlab.dev/listen"
"""The ports on which a pod's image listens, such as `1234/TCP,5353/UDP`, in place of those that its container declares."""
EXIT_CODE_ANNOTATION = "kubenetlab.dev/exit-code"
"""The exit status with which a pod's built-in programs end."""
DURATION_ANNOTATION = "kubenetlab.dev/duration"
"""Duration after which a pod's built-in programs end, such as `5s`."""


class Toleration(Record, frozen=True):
    """Lets a pod onto (or stay on) nodes with a matching taint; an empty key with Exists matches all."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class PodDNSConfigOption(Record, frozen=True):
    """One option of resolv.conf."""

    name: str
    value: str | None = None


class PodDNSConfig(Record, frozen=True):
    """What is added to a pod's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[PodDNSConfigOption, ...] = ()


class HostAlias(Record, frozen=True):
    """A line added to a pod's hosts file."""

    ip: str
    hostnames: tuple[str, ...] = ()


class PodReadinessGate(Record, frozen=True):
    """A further condition that must be True for a pod to be ready."""

    condition_type: str


class PodSchedulingGate(Record, frozen=True):
    """A reason to leave a pod unscheduled until a controller or the user removes it."""

    name: str


class PodSpec(Record, frozen=True):
    """What a pod runs, where, and how it is wired."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    """They run before the others, one after the other; sidecars (`restartPolicy: Always`) go on beside them."""
    node_name: str = ""
    """Where it runs; without it the scheduler finds a node."""
    node_selector: dict[str, str] = {}
    """Labels that its node must have."""
    affinity: Affinity = Affinity()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    host_network: bool = False
    """True: in its node's network, with its node's address."""
    hostname: str = ""
    subdomain: str = ""
    """The headless Service below whose DNS name the pod has one of its own."""
    set_hostname_as_fqdn: bool = False
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] = (
        "ClusterFirst"
    )
    dns_config: PodDNSConfig = PodDNSConfig()
    host_aliases: tuple[HostAlias, ...] = ()
    """Lines for /etc/hosts."""
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    scheduling_gates: tuple[PodSchedulingGate, ...] = ()
    """The scheduler ignores the pod as long as there are any."""
    termination_grace_period_seconds: NotNegative = 30
    """Seconds that preStop hooks and programs have to end. Built-in programs end as soon as no node sends packets to them any more."""
    enable_service_links: bool = True
    """Whether the namespace's Services are told by environment variables."""

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
    service_account: Unmodelled = None
    service_account_name: Unmodelled = None
    share_process_namespace: Unmodelled = None
    """The containers of a pod always share one PID namespace here."""
    volumes: Unmodelled = None

    @property
    def host_ports(self) -> tuple[tuple[str, str, int], ...]:
        """(address of the node or nothing for all, protocol, port) of what the pod takes of its node; with hostNetwork every port."""
        ports = [port for container in self.long_running_containers for port in container.ports]
        if self.host_network:
            return tuple((port.host_ip, port.protocol, port.container_port) for port in ports)
        return tuple(
            (port.host_ip, port.protocol, port.host_port) for port in ports if port.host_port
        )

    @property
    def long_running_containers(self) -> tuple[Container, ...]:
        """Sidecars and app containers, in the order they start."""
        return (
            tuple(container for container in self.init_containers if container.is_sidecar)
            + self.containers
        )

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """Init containers too, in the order they start."""
        return self.init_containers + self.containers


class Waiting(Record, frozen=True):
    """A container that does not run yet, or not again yet."""

    reason: str = ""
    message: str = ""


class Running(Record, frozen=True):
    """A container that runs."""

    started_at: str | None = None


class Terminated(Record, frozen=True):
    """A container that has ended."""

    exit_code: int
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(Record, frozen=True):
    """Exactly one of the three is set."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Record, frozen=True):
    """How one container is."""

    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    started: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: Unmodelled = None
    container_id: Unmodelled = None


class PodIP(Record, frozen=True):
    """One address of a pod or of its node."""

    ip: str


class PodStatus(Record, frozen=True):
    """How a pod is; written by the kubelet."""

    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Pending"
    conditions: tuple[Condition, ...] = ()
    host_ip: str = ""
    host_ips: tuple[PodIP, ...] = ()
    pod_ip: str = ""
    pod_ips: tuple[PodIP, ...] = ()
    start_time: str | None = None
    reason: str = ""
    message: str = ""
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    qos_class: Unmodelled = None

    def condition(self, type_: str) -> Condition | None:
        for condition in self.conditions:
            if condition.type == type_:
                return condition
        return None


class Pod(Resource, frozen=True):
    """Containers that share a network namespace, and so an address and its ports; here they share a PID namespace, too."""

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
        """The pod's addresses, at most one per family, the primary family first."""
        return tuple(entry.ip for entry in self.status.pod_ips)

    @property
    def hostname(self) -> str:
        return self.spec.hostname or self.metadata.name

    @property
    def wanted_addresses(self) -> tuple[str, ...]:
        """Those that its annotation asks for; none for a pod in its node's network."""
        return () if self.spec.host_network else wanted_addresses(self.metadata)

    def container(self, name: str) -> Container | None:
        return next(
            (container for container in self.spec.all_containers if container.name == name), None
        )

    @property
    def container_statuses(self) -> tuple[ContainerStatus, ...]:
        """Those of init containers too, in the order they start."""
        return self.status.init_container_statuses + self.status.container_statuses

    def container_status(self, name: str) -> ContainerStatus | None:
        return next((status for status in self.container_statuses if status.name == name), None)


def wanted_addresses(meta: ObjectMeta) -> tuple[str, ...]:
    """The addresses that an annotation asks for."""
    return addresses_in(meta.annotations.get(ADDRESSES_ANNOTATION, ""))


def is_of_job(meta: ObjectMeta) -> bool:
    """Return True when a Job made the pod with this metadata."""
    return any(owner.kind == "Job" and owner.controller for owner in meta.owner_references)


def addresses_in(text: str) -> tuple[str, ...]:
    """The annotation's value, taken apart."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def conditions_in(text: str) -> tuple[Condition, ...]:
    """Return the conditions of the annotation `kubenetlab.dev/conditions`.

    Raises ValueError with the part that is not a condition, and with the part that names a condition again.
    """
    conditions: dict[str, Condition] = {}
    for part in addresses_in(text):
        name, _, status = (word.strip() for word in part.partition("="))
        match status:
            case "True" | "False" | "Unknown" if name and name not in conditions:
                conditions[name] = Condition(name, status)
            case _:
                raise ValueError(part)
    return tuple(conditions.values())


def ports_in(text: str) -> tuple[tuple[Protocol, int], ...]:
    """Return the (protocol, port) pairs of the annotation `kubenetlab.dev/listen`, each once.

    Raises ValueError with the part that is no port.
    """
    found: dict[tuple[Protocol, int], None] = {}
    for part in addresses_in(text):
        number, _, protocol = part.partition("/")
        known = next(
            (one for one in get_args(Protocol) if one == (protocol.strip().upper() or "TCP")), None
        )
        if known is None or not (
            number.isascii() and number.isdigit() and 1 <= int(number[:6]) <= MAX_PORT
        ):
            raise ValueError(part)
        found[known, int(number)] = None
    return tuple(found)


class PodTemplateSpec(Record, kw_only=True, frozen=True):
    """What new pods are made from."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec
