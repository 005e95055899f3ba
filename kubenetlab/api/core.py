"""Namespace, Node, Service and Event of the core group.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, PortOrName, Protocol
from kubenetlab.api.meta import Condition, ObjectMeta, Record, Resource, Unmodelled

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
IP_MODE_ANNOTATION = "kubenetlab.dev/load-balancer-ip-mode"
"""Annotation of a Service: `Proxy` makes the lab's load balancer forward connections to node ports.

`VIP`, the default, makes it deliver packets to the nodes unchanged.
"""


class NamespaceSpec(Record, frozen=True):
    """Desired state of a Namespace. No field has an effect in the lab."""

    finalizers: Unmodelled = None


class NamespaceStatus(Record, frozen=True):
    """Observed state of a Namespace."""

    phase: str = "Active"
    """Active, or Terminating while the namespace is being deleted."""
    conditions: Unmodelled = None


class Namespace(Resource, frozen=True):
    """Scope for names of objects."""

    api_version = "v1"
    kind = "Namespace"
    plural = "namespaces"
    short_names = ("ns",)
    is_namespaced = False

    metadata: ObjectMeta
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class Taint(Record, kw_only=True, frozen=True):
    """Taint of a node: it affects every pod that does not tolerate it."""

    key: str
    """Key of the taint."""
    value: str = ""
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    """NoSchedule keeps new pods off the node. NoExecute also evicts running pods."""
    time_added: str | None = None
    """Time at which the taint was added. Start of tolerationSeconds. Only with NoExecute."""

    def __str__(self) -> str:
        return f"{{{self.key}: {self.value}}}"


class NodeAddress(Record, frozen=True):
    """Address or name of a node."""

    type: str
    """Type of the address: InternalIP or Hostname."""
    address: str
    """The address or the name."""


class NodeSpec(Record, frozen=True):
    """Desired state of a Node."""

    pod_cidr: str = ""
    """Range of pod addresses of the node. Equal to the first entry of `podCIDRs`."""
    pod_cidrs: tuple[str, ...] = ()
    """Ranges of pod addresses of the node, one per IP family."""
    taints: tuple[Taint, ...] = ()
    """Taints of the node."""
    unschedulable: bool = False
    """If true, the scheduler binds no new pods to the node."""
    provider_id: Unmodelled = None


class NodeStatus(Record, frozen=True):
    """Observed state of a Node."""

    addresses: tuple[NodeAddress, ...] = ()
    """Addresses and names of the node."""
    conditions: tuple[Condition, ...] = ()
    """Conditions of the node, such as Ready."""


class Node(Resource, frozen=True):
    """Machine of the cluster. In the lab: a network namespace with `eth0` on the fabric."""

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
        """Internal addresses, at most one per IP family."""
        return tuple(entry.address for entry in self.status.addresses if entry.type == "InternalIP")

    @property
    def is_ready(self) -> bool:
        return any(
            condition.type == "Ready" and condition.status == "True"
            for condition in self.status.conditions
        )


class ServicePort(Record, frozen=True):
    """Port of a Service."""

    port: Port
    """Port number that the Service exposes."""
    name: str = ""
    """Name of the port. Required if the Service has several ports."""
    protocol: Protocol = "TCP"
    """IP protocol of the port."""
    target_port: PortOrName | None = None
    """Port of the selected pods: a number, or the name of a container port. Defaults to `port`."""
    node_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """Port on each node, for types NodePort and LoadBalancer. Allocated if it is 0."""
    app_protocol: str | None = None
    """Application protocol of the port. A hint for implementations."""


class ClientIPConfig(Record, frozen=True):
    """Configuration of session affinity by client IP address."""

    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 10800
    """Time since the latest connection for which a client keeps its endpoint, in seconds."""


class SessionAffinityConfig(Record, frozen=True):
    """Configuration of session affinity."""

    client_ip: ClientIPConfig = ClientIPConfig()
    """Configuration of sessionAffinity ClientIP."""


IPFamily = Literal["IPv4", "IPv6"]


class ServiceSpec(Record, frozen=True):
    """Desired state of a Service."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    """Way in which the Service is exposed."""
    selector: Mapping[str, str] = {}
    """Labels of the pods that serve it. Without a selector, create its EndpointSlices yourself."""
    ports: tuple[ServicePort, ...] = ()
    """Ports that the Service exposes."""
    cluster_ip: str = ""
    """Virtual IP address of the Service, or `None` for a headless Service. Allocated if empty."""
    cluster_ips: tuple[str, ...] = ()
    """Virtual IP addresses of the Service, one per IP family. The first is `clusterIP`."""
    ip_families: tuple[IPFamily, ...] = ()
    """IP families of the Service. Chosen by `ipFamilyPolicy` if empty."""
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    """Number of IP families: one, two if the cluster has two, or exactly two."""
    external_name: str = ""
    """DNS name that the name of the Service is an alias of. Only with type ExternalName."""
    external_ips: tuple[str, ...] = ()
    """Further addresses whose traffic nodes accept for the Service. Their routing is up to you."""
    session_affinity: Literal["None", "ClientIP"] = "None"
    """ClientIP sends all connections of a client to the same endpoint."""
    session_affinity_config: SessionAffinityConfig = SessionAffinityConfig()
    """Configuration of session affinity."""
    internal_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    """Local sends traffic of a pod only to endpoints on the pod's own node."""
    external_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    """Local sends traffic from outside only to endpoints on the node that received it.

    It preserves the client's source address.
    """
    load_balancer_class: str = ""
    """Class of the load balancer. The lab's load balancer ignores Services that set a class."""
    load_balancer_ip: str = ""
    """Requested address in the pool of the load balancer."""
    publish_not_ready_addresses: bool = False
    """If true, endpoints count as ready before their pods are ready."""

    allocate_load_balancer_node_ports: bool | None = None
    """If false, a Service of type LoadBalancer has only the node ports that it requests."""
    health_check_node_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """Port on which a node reports whether it has endpoints. Allocated if it is 0.

    Only with type LoadBalancer and externalTrafficPolicy Local.
    """
    load_balancer_source_ranges: tuple[str, ...] = ()
    """Ranges of the clients that may use the load balancer's address. All clients if empty."""

    traffic_distribution: Literal["PreferSameZone", "PreferSameNode", "PreferClose"] | None = None
    """Preference for endpoints in the client's zone, or on its node, while there are any.

    PreferClose is the older name of PreferSameZone.
    """


IpMode = Literal["VIP", "Proxy"]
"""Delivery by a load balancer: VIP leaves packets unchanged, Proxy forwards to a node port."""


class LoadBalancerIngress(Record, frozen=True):
    """Ingress point of a load balancer."""

    ip: str = ""
    """IP address of the ingress point."""
    ip_mode: IpMode = "VIP"
    """VIP delivers packets to nodes with their destination address. Proxy sends them to a node
    port."""
    hostname: Unmodelled = None
    ports: Unmodelled = None


class LoadBalancerStatus(Record, frozen=True):
    """Observed state of the load balancer of a Service."""

    ingress: tuple[LoadBalancerIngress, ...] = ()
    """Ingress points of the load balancer."""


class ServiceStatus(Record, frozen=True):
    """Observed state of a Service."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    """State of the load balancer, if the Service has one."""
    conditions: Unmodelled = None


class Service(Resource, frozen=True):
    """Stable name and address for a changing set of pods."""

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
        """Virtual IP addresses, at most one per IP family; none for headless and ExternalName."""
        return () if self.is_headless else self.spec.cluster_ips

    @property
    def external_ips(self) -> tuple[str, ...]:
        """External IP addresses in canonical notation."""
        return tuple(str(ip_address(address)) for address in self.spec.external_ips)

    @property
    def load_balancer_ips(self) -> tuple[str, ...]:
        """Addresses of the load balancer, at most one per IP family."""
        return tuple(ingress.ip for ingress in self.status.load_balancer.ingress if ingress.ip)

    @property
    def virtual_ips(self) -> tuple[str, ...]:
        """Addresses of the load balancer that nodes accept themselves (ipMode VIP)."""
        return tuple(
            ingress.ip
            for ingress in self.status.load_balancer.ingress
            if ingress.ip and ingress.ip_mode == "VIP"
        )


class ObjectReference(Record, frozen=True):
    """Reference to an object of any kind."""

    kind: str = ""
    """Kind of the object."""
    namespace: str = ""
    """Namespace of the object."""
    name: str = ""
    """Name of the object."""
    uid: str = ""
    """UID of the object."""
    api_version: str = ""
    """API version of the object."""
    resource_version: Unmodelled = None
    field_path: Unmodelled = None


class EventSource(Record, frozen=True):
    """Component that reports an event."""

    component: str = ""
    """Name of the component."""
    host: str = ""
    """Name of the node that the component runs on."""


class Event(Resource, kw_only=True, frozen=True):
    """Report of something that happened to an object, counted while it repeats."""

    api_version = "v1"
    kind = "Event"
    plural = "events"
    short_names = ("ev",)

    metadata: ObjectMeta
    involved_object: ObjectReference
    """Object that the event is about."""
    type: Literal["Normal", "Warning"] = "Normal"
    """Type of the event."""
    reason: str = ""
    """Short machine-readable reason, such as FailedScheduling."""
    message: str = ""
    """Human-readable description."""
    source: EventSource = EventSource()
    """Component that reports the event."""
    count: int = 1
    """Number of times the event has occurred."""
    first_timestamp: str | None = None
    """Time of the first occurrence."""
    last_timestamp: str | None = None
    """Time of the latest occurrence."""
