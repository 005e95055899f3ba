"""Cluster: the configuration of a lab, with its nodes, ranges, modes and external hosts.

It extends kind's configuration (kind.x-k8s.io/v1alpha4), which is accepted unchanged:

    apiVersion: kubenetlab.dev/v1alpha1
    kind: Cluster
    name: demo
    nodes: [{role: control-plane}, {role: worker}, {role: worker, labels: {disktype: ssd}}]
    networking:
      podSubnet: 10.244.0.0/16
      serviceSubnet: 10.96.0.0/16
      cni: {type: bridge}
      kubeProxyMode: nftables
    external: [{name: client, address: 198.51.100.10}]

Source of the fields of kind: sigs.k8s.io/kind pkg/apis/config/v1alpha4/types.go (v0.27).
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Final, Literal

from msgspec import Meta

from kubenetlab.api.config_versions import API_VERSION
from kubenetlab.api.containers import Port, Protocol
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource, Unmodelled

Network = IPv4Network | IPv6Network

NODE_SUBNETS: Final = {4: ip_network("172.18.0.0/16"), 6: ip_network("fd00:172:18::/64")}
"""Ranges of node addresses, by IP version."""
ROUTED_NODE_SUBNETS: Final = {4: NODE_SUBNETS[4], 6: ip_network("fd00:172:18::/48")}
"""Ranges of node addresses on a routed fabric, by IP version: each segment has a part of them."""
INTERNET_SUBNETS: Final = {4: ip_network("198.51.100.0/24"), 6: ip_network("2001:db8:51:100::/64")}
"""Ranges of addresses of external hosts, by IP version."""
LOAD_BALANCER_SUBNETS: Final = {
    4: ip_network("203.0.113.0/24"),
    6: ip_network("2001:db8:0:113::/112"),
}
"""Ranges of load balancer addresses, by IP version."""
POD_SUBNETS: Final = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
"""Default ranges of pod addresses, by IP version."""
POD_SUBNETS_BY_CNI: Final = {"weave": {4: "10.32.0.0/12", 6: "fd00:10:32::/56"}}
"""CNI mode → its own defaults of ranges of pod addresses, by IP version."""
SERVICE_SUBNETS: Final = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
"""Default ranges of Service addresses, by IP version."""

VERSIONS: Final[Mapping[str, tuple[int, ...]]] = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
"""IP family of a cluster → its IP versions, the primary one first."""


DEFAULT_MTU: Final = 1500
"""MTU of links between nodes and the fabric, in bytes."""

AddressNumber = Annotated[
    int,
    Meta(
        ge=2,
        le=2**63 - 1,
        title="the number of an address in a node's range (0 is the network, 1 the gateway)",
    ),
]


class PortMapping(Record, frozen=True):
    """Port of the first external host that is forwarded to a port of a node.

    With an uplink it is a port of the machine, too.
    """

    container_port: Port
    """Port of the node."""
    host_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """Port of the host. If it is 0, the same number as `containerPort`."""
    listen_address: str = ""
    """Address of the host that the port is open at. All addresses if empty."""
    protocol: Protocol = "TCP"
    """IP protocol of the port."""


class NodeConfig(Record, frozen=True):
    """Configuration of a node."""

    role: Literal["control-plane", "worker"] = "control-plane"
    """Role of the node."""
    name: str = ""
    """Name of the node. Defaults to the role, from the second node of a role on with a number."""
    labels: Labels = {}
    """Labels of the node."""
    pod_cidrs: tuple[str, ...] = ()
    """Ranges of pod addresses, one per IP family. Defaults to the next free parts of `podSubnet`.
    """
    extra_port_mappings: tuple[PortMapping, ...] = ()
    """Ports of the first external host that are forwarded to the node."""
    segment: str = ""
    """Name of the node's layer-2 segment, such as a rack, with `fabric.topology: routed`.

    Nodes with the same name are on one subnet. Without a name, the node has a segment of its own.
    """
    extra_mounts: Unmodelled = None
    image: Unmodelled = None
    kubeadm_config_patches: Unmodelled = None
    kubeadm_config_patches_json6902: Unmodelled = None


class Pool(Record, kw_only=True, frozen=True):
    """Part of each node's pod range that is reserved for some pods.

    It is used for the pods of `namespaces` on `nodes`. If both lists are empty, it is used only for
    pods that name it in their annotation `kubenetlab.dev/pool`.
    """

    name: str
    """Name of the pool."""
    first: AddressNumber
    """Number of the first address, counted from the beginning of the node's range."""
    last: AddressNumber
    """Number of the last address, counted from the beginning of the node's range."""
    namespaces: tuple[str, ...] = ()
    """Namespaces of the pods. All namespaces if empty."""
    nodes: tuple[str, ...] = ()
    """Nodes that have the pool. All nodes if empty."""

    def serves(self, node: str) -> bool:
        """Return True if the pool has addresses on a node."""
        return not self.nodes or node in self.nodes


class IPAM(Record, frozen=True):
    """Allocation of pod addresses."""

    pools: tuple[Pool, ...] = ()
    """Parts of each node's pod range that are reserved for some pods."""


class Networking(Record, frozen=True):
    """IP families, ranges and modes of a cluster."""

    ip_family: Annotated[Literal["ipv4", "ipv6", "dual"], Meta(examples=["ipv4"])] = "ipv4"
    """IP families of the cluster."""
    pod_subnet: str = POD_SUBNETS[4]
    """Range of pod addresses. A dual-stack cluster has two ranges, separated by a comma.

    The first one is of the primary IP family.
    """
    service_subnet: str = SERVICE_SUBNETS[4]
    """Range of Service addresses. A dual-stack cluster has two ranges, separated by a comma."""
    node_cidr_mask_size_ipv4: Annotated[int, Meta(ge=8, le=30, title="a prefix length")] = 24
    """Prefix length of each node's part of the IPv4 pod range."""
    node_cidr_mask_size_ipv6: Annotated[int, Meta(ge=8, le=126, title="a prefix length")] = 64
    """Prefix length of each node's part of the IPv6 pod range."""
    ipam: IPAM = IPAM()
    """Allocation of pod addresses."""
    dns_domain: str = "cluster.local"
    """DNS domain of the cluster."""
    cni: str | JsonMapping = "bridge"
    """CNI mode: its name, or a mapping of `type` and the options of the mode."""
    kube_proxy_mode: Annotated[str | JsonMapping | None, Meta(examples=["nftables"])] = None
    """Implementation of Services: its name, or a mapping of `type` and the options of the mode.

    Defaults to nftables; to none with a CNI plugin that implements Services itself.
    """
    policy_engine: Annotated[str | JsonMapping | None, Meta(examples=["nftables"])] = None
    """Engine of network policies: its name, or a mapping of `type` and the options of the engine.

    Defaults to the engine of the CNI mode, which is none for plugins that enforce no policies.
    """
    disable_default_cni: bool = False
    """If true, the same as `cni: none`."""

    api_server_address: Unmodelled = None
    api_server_port: Unmodelled = None
    dns_search: Unmodelled = None

    @property
    def pod_networks(self) -> tuple[Network, ...]:
        return networks(self.pod_subnet)

    @property
    def service_networks(self) -> tuple[Network, ...]:
        return networks(self.service_subnet)

    @property
    def versions(self) -> tuple[int, ...]:
        """IP versions of pods, nodes and Services, the primary one first."""
        return tuple(network.version for network in self.pod_networks)

    def node_mask_size(self, version: int) -> int:
        """Return the prefix length of each node's part of the pod range."""
        return {4: self.node_cidr_mask_size_ipv4, 6: self.node_cidr_mask_size_ipv6}[version]

    @property
    def cni_mode(self) -> tuple[str, JsonMapping]:
        """(name, options) of the CNI mode."""
        return ("none", {}) if self.disable_default_cni else mode_and_options(self.cni)


class FabricLink(Record, frozen=True):
    """Settings of the link between a node and the fabric. Those of a later entry replace others."""

    node: str = "all"
    """Name of the node. all for every node."""
    mtu: Annotated[int, Meta(ge=0, le=65535, title="an MTU in bytes")] = 0
    """Largest packet in bytes, 1500 if it is 0. Pods have the overhead of tunnels less."""
    rate: str = ""
    """Maximum rate in each direction, such as 100mbit. No limit if empty."""
    delay: str = ""
    """Delay in each direction, such as 10ms."""
    loss: str = ""
    """Lost packets in each direction, such as 1%."""


class FabricBGP(Record, frozen=True):
    """BGP of the router between the nodes."""

    as_number: Annotated[int, Meta(ge=1, le=0xFFFFFFFF, title="an AS number")] = 65000
    """Autonomous system of the router. Nodes are in another one, or in the same."""
    routers: Annotated[int, Meta(ge=1, le=2, title="1 or 2")] = 1
    """Number of routers between the segments. With 2, packets have two ways (ECMP).

    The second one is not connected to the internet.
    """


class Fabric(Record, frozen=True):
    """Network that connects the nodes."""

    topology: Literal["switched", "routed"] = "switched"
    """Topology of the network.

    switched: all nodes are on one layer-2 segment and one subnet. routed: each segment has a subnet
    of its own, and the router forwards packets between them.
    """
    links: tuple[FabricLink, ...] = ()
    """Settings of the links between the nodes and this network."""
    bgp: FabricBGP | None = None
    """BGP of the router. If set, the router runs BIRD and has a session with each node.

    Only CNI modes with BGP use it: calico and kube-router.
    """

    @property
    def routers(self) -> int:
        """Number of routers between segments."""
        return self.bgp.routers if self.bgp is not None else 1


class ExternalHost(Record, frozen=True):
    """Host outside of the cluster, in the lab's internet."""

    name: str
    """Name of the host."""
    address: str
    """Address of the host, or one address per IP family, separated by commas.

    In a cluster with IPv6, a host with only an IPv4 address gets an IPv6 address that ends with the
    same digits: 2001:db8:51:100::10 for 198.51.100.10.
    """
    ports: tuple[Port, ...] = ()
    """Ports on which the host serves."""

    def addresses(self, versions: Sequence[int]) -> tuple[str, ...]:
        """Return the host's address of each IP version, in order; leave out missing ones."""
        given = {ip_address(text).version: text for text in self.given_addresses}
        if 4 in given and 6 not in given:
            given[6] = str(INTERNET_SUBNETS[6][int(given[4].rpartition(".")[2], 16)])
        return tuple(str(ip_address(given[version])) for version in versions if version in given)

    @property
    def given_addresses(self) -> tuple[str, ...]:
        """Addresses as in the document."""
        return tuple(part.strip() for part in self.address.split(","))


class ClusterConfig(Resource, frozen=True):
    """Configuration of a lab: its nodes, ranges, modes and external hosts."""

    api_version = API_VERSION
    kind = "Cluster"
    plural = "clusters"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta()
    nodes: tuple[NodeConfig, ...] = (
        NodeConfig(role="control-plane"),
        NodeConfig(role="worker"),
        NodeConfig(role="worker"),
    )
    """Nodes of the cluster. Defaults to a control plane and two workers.

    With kind's apiVersion, defaults to a control plane alone.
    """
    networking: Networking = Networking()
    """IP families, ranges and modes."""
    fabric: Fabric = Fabric()
    """Network that connects the nodes."""
    real_commands: bool = False
    """If true, a container's `command` is run if this machine has the program.

    Otherwise a built-in program runs instead.
    """
    drift: Annotated[Literal["repair", "keep"], Meta(examples=["keep"])] = "repair"
    """Handling of links, addresses, routes and rules of the lab that another program changes.

    repair restores them within two seconds. keep leaves them until the next `up` or `apply`.
    """
    uplink: bool = False
    """If true, the lab's router is connected to the network of the machine.

    Pods, nodes and hosts reach what the machine reaches, and the nodes' extraPortMappings are ports
    of the machine, too. Requires root. Nothing else of a lab changes the machine's network.
    """
    external: tuple[ExternalHost, ...] = (ExternalHost(name="client", address="198.51.100.10"),)
    """Hosts outside of the cluster. Defaults to one client."""

    kubeadm_config_patches: Unmodelled = None
    kubeadm_config_patches_json6902: Unmodelled = None
    feature_gates: Unmodelled = None
    runtime_config: Unmodelled = None
    containerd_config_patches: Unmodelled = None
    containerd_config_patches_json6902: Unmodelled = None

    @property
    def node_networks(self) -> tuple[Network, ...]:
        """Ranges of node addresses, one per IP family, the primary family first."""
        subnets = NODE_SUBNETS if self.fabric.topology == "switched" else ROUTED_NODE_SUBNETS
        return tuple(subnets[version] for version in self.networking.versions)

    @property
    def segments(self) -> tuple[str, ...]:
        """Layer-2 segment of each node: a name, or what no other node has.

        Nodes with equal segments are on one subnet.
        """
        if self.fabric.topology == "switched":
            return ("",) * len(self.nodes)
        return tuple(
            node.segment or f"/{name}"
            for node, name in zip(self.nodes, self.node_names, strict=True)
        )

    @property
    def node_names(self) -> tuple[str, ...]:
        """Name of each node, as given or such as control-plane, worker and worker2."""
        counts: dict[str, int] = {}
        names = []
        for node in self.nodes:
            counts[node.role] = count = counts.get(node.role, 0) + 1
            names.append(node.name or (node.role if count == 1 else f"{node.role}{count}"))
        return tuple(names)

    def names_of_hosts(self) -> dict[str, list[str]]:
        """Return the names of the external hosts by their addresses."""
        names: dict[str, list[str]] = {}
        for host in self.external:
            for address in host.addresses(self.networking.versions):
                names.setdefault(address, []).append(host.name)
        return names


def has_valid_ranges(networking: Networking) -> bool:
    """Return True if the ranges of pods and Services can be read; other findings need them."""
    try:
        return bool(networking.pod_networks and networking.service_networks)
    except ValueError:
        return False


def networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list such as `10.244.0.0/16,fd00:10:244::/56`.

    Raises ValueError if a part is not a network.
    """
    return tuple(ip_network(part.strip()) for part in text.split(","))


def mode_and_options(value: str | JsonMapping) -> tuple[str, JsonMapping]:
    """Return (name, options) of a mode given by its name or as a mapping with `type`."""
    if isinstance(value, str):
        return value, {}
    return str(value.get("type", "")), {
        key: option for key, option in value.items() if key != "type"
    }
