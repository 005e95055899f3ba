"""Namespace, Node, Service and Event of the core group.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, PortOrName, Protocol
from kubenetlab.api.meta import Condition, ObjectMeta, Record, Resource, Unmodelled

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
IP_MODE_ANNOTATION = "kubenetlab.dev/load-balancer-ip-mode"
"""`Proxy` on a Service has the lab's load balancer send what is for it on to node ports; `VIP`, as without it, leads it to the nodes as it is."""


class NamespaceSpec(Record, frozen=True):
    """Nothing that the lab uses."""

    finalizers: Unmodelled = None


class NamespaceStatus(Record, frozen=True):
    """Whether a namespace is being deleted."""

    phase: str = "Active"
    conditions: Unmodelled = None


class Namespace(Resource, frozen=True):
    """A room of its own for names."""

    api_version = "v1"
    kind = "Namespace"
    plural = "namespaces"
    short_names = ("ns",)
    is_namespaced = False

    metadata: ObjectMeta
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class Taint(Record, kw_only=True, frozen=True):
    """Keeps pods off a node that do not tolerate it."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    time_added: str | None = None
    """Of NoExecute: from then on tolerationSeconds count."""

    def __str__(self) -> str:
        return f"{{{self.key}: {self.value}}}"


class NodeAddress(Record, frozen=True):
    """One address or name of a node."""

    type: str
    address: str


class NodeSpec(Record, frozen=True):
    """A node's pod range and taints."""

    pod_cidr: str = ""
    pod_cidrs: tuple[str, ...] = ()
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    """True: no further pod is put there."""
    provider_id: Unmodelled = None


class NodeStatus(Record, frozen=True):
    """A node's addresses and conditions."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(Resource, frozen=True):
    """A machine of the cluster: here a network namespace with `eth0` on the fabric."""

    api_version = "v1"
    kind = "Node"
    plural = "nodes"
    short_names = ("no",)
    is_namespaced = False

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Internal addresses, at most one per family."""
        return tuple(entry.address for entry in self.status.addresses if entry.type == "InternalIP")

    @property
    def is_ready(self) -> bool:
        return any(
            condition.type == "Ready" and condition.status == "True"
            for condition in self.status.conditions
        )


class ServicePort(Record, frozen=True):
    """One port of a Service; `target_port` is a number or the name of a container's port."""

    port: Port
    name: str = ""
    """Required when there are several."""
    protocol: Protocol = "TCP"
    target_port: PortOrName | None = None
    """By default the number of `port`."""
    node_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    app_protocol: str | None = None


class ClientIPConfig(Record, frozen=True):
    """How long a client stays with its endpoint."""

    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 10800


class SessionAffinityConfig(Record, frozen=True):
    """The settings of session affinity."""

    client_ip: ClientIPConfig = ClientIPConfig()


IPFamily = Literal["IPv4", "IPv6"]


class ServiceSpec(Record, frozen=True):
    """Which pods, under which addresses and ports, by which rules."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: dict[str, str] = {}
    """The labels of its pods. Without any, its EndpointSlices are yours to write."""
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = ""
    """Drawn from the Services' range when nothing is given; `None` makes it headless."""
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[IPFamily, ...] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    external_name: str = ""
    """What its name is an alias of."""
    external_ips: tuple[str, ...] = ()
    """Addresses outside that nodes take in for it; somebody has to route them to a node."""
    session_affinity: Literal["None", "ClientIP"] = "None"
    """ClientIP: a client stays with one endpoint."""
    session_affinity_config: SessionAffinityConfig = SessionAffinityConfig()
    internal_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    """Local: from a pod only to endpoints on its own node."""
    external_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    load_balancer_class: str = ""
    """Another load balancer's than the lab's: it is left to that one."""
    load_balancer_ip: str = ""
    """An address of the load balancers' pool that is asked for."""
    publish_not_ready_addresses: bool = False
    """True: endpoints count as ready from the beginning."""

    allocate_load_balancer_node_ports: bool | None = None
    """False: a load balancer's Service has no node ports but those it asks for."""
    health_check_node_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """Where a load balancer asks a node whether it has endpoints, with externalTrafficPolicy Local."""
    load_balancer_source_ranges: tuple[str, ...] = ()
    """Who may come in by the load balancer's address; everybody when nothing is given."""

    traffic_distribution: Literal["PreferSameZone", "PreferSameNode", "PreferClose"] | None = None
    """Endpoints in the client's zone, or on its node, come first, as long as there are any. PreferClose is PreferSameZone's older name."""


IpMode = Literal["VIP", "Proxy"]
"""How packets for a load balancer's address reach a node: as they are, or sent on by the balancer to a node port."""


class LoadBalancerIngress(Record, frozen=True):
    """One way in from outside: an address."""

    ip: str = ""
    ip_mode: IpMode = "VIP"
    hostname: Unmodelled = None
    ports: Unmodelled = None


class LoadBalancerStatus(Record, frozen=True):
    """What a load balancer has made for a Service."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Record, frozen=True):
    """What load balancers have written."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: Unmodelled = None


class Service(Resource, frozen=True):
    """A stable name and address for a changing set of pods."""

    api_version = "v1"
    kind = "Service"
    plural = "services"
    short_names = ("svc",)

    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def is_headless(self) -> bool:
        return self.spec.cluster_ip == "None"

    @property
    def cluster_ips(self) -> tuple[str, ...]:
        """The virtual addresses, at most one per family; none for headless and ExternalName Services."""
        return () if self.is_headless else self.spec.cluster_ips

    @property
    def external_ips(self) -> tuple[str, ...]:
        """Addresses outside that it is given, as they are written everywhere else."""
        return tuple(str(ip_address(address)) for address in self.spec.external_ips)

    @property
    def load_balancer_ips(self) -> tuple[str, ...]:
        """Its addresses outside, at most one per family."""
        return tuple(ingress.ip for ingress in self.status.load_balancer.ingress if ingress.ip)

    @property
    def virtual_ips(self) -> tuple[str, ...]:
        """Those of them that nodes take in themselves (ipMode VIP)."""
        return tuple(
            ingress.ip
            for ingress in self.status.load_balancer.ingress
            if ingress.ip and ingress.ip_mode == "VIP"
        )


class ObjectReference(Record, frozen=True):
    """Names an object of any kind."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: Unmodelled = None
    field_path: Unmodelled = None


class EventSource(Record, frozen=True):
    """Which component tells of an event."""

    component: str = ""
    host: str = ""


class Event(Resource, kw_only=True, frozen=True):
    """Something that happened to an object, counted while it repeats."""

    api_version = "v1"
    kind = "Event"
    plural = "events"
    short_names = ("ev",)

    metadata: ObjectMeta
    involved_object: ObjectReference
    type: Literal["Normal", "Warning"] = "Normal"
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    count: int = 1
    first_timestamp: str | None = None
    last_timestamp: str | None = None
