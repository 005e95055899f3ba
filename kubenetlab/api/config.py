"""Cluster: the one document that is not Kubernetes' own; it describes nodes, ranges, modes and the world outside.

Its shape is kind's configuration (kind.x-k8s.io/v1alpha4), which is read as it is:

    apiVersion: kubenetlab.dev/v1alpha1
    kind: Cluster
    name: demo
    nodes: [{role: control-plane}, {role: worker}, {role: worker, labels: {disktype: ssd}}]
    networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16, cni: {type: bridge}, kubeProxyMode: nftables}
    external: [{name: client, address: 198.51.100.10}]

Source of kind's part: sigs.k8s.io/kind pkg/apis/config/v1alpha4/types.go (v0.27).
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, Protocol
from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource, Unmodelled

API_VERSIONS = ("kubenetlab.dev/v1alpha1", "kind.x-k8s.io/v1alpha4")

Network = IPv4Network | IPv6Network

NODE_SUBNETS: Final = {4: ip_network("172.18.0.0/16"), 6: ip_network("fd00:172:18::/64")}
"""By IP version, as all that follow."""
INTERNET_SUBNETS: Final = {4: ip_network("198.51.100.0/24"), 6: ip_network("2001:db8:51:100::/64")}
LOAD_BALANCER_SUBNETS: Final = {
    4: ip_network("203.0.113.0/24"),
    6: ip_network("2001:db8:0:113::/112"),
}
POD_SUBNETS: Final = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
SERVICE_SUBNETS: Final = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}

VERSIONS: Final[Mapping[str, tuple[int, ...]]] = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
"""IP family of a cluster → its IP versions, the primary one first."""


AddressNumber = Annotated[
    int,
    Meta(
        ge=2,
        le=2**63 - 1,
        title="the number of an address in a node's range (0 is the network, 1 the gateway)",
    ),
]


class PortMapping(Record, frozen=True):
    """A port of the first external host, the lab's client, that leads to one of the node's. With an uplink it is the machine's, too."""

    container_port: Port
    """The node's."""
    host_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    """The host's; 0: the same."""
    listen_address: str = ""
    """At which of the host's addresses; without it, at all."""
    protocol: Protocol = "TCP"


class NodeConfig(Record, frozen=True):
    """One node: its role, and perhaps a name, labels and pod ranges of its own."""

    role: Literal["control-plane", "worker"] = "control-plane"
    name: str = ""
    labels: Labels = {}
    pod_cidrs: tuple[str, ...] = ()
    """One per family; without them the cluster gives out the next free ones."""
    extra_port_mappings: tuple[PortMapping, ...] = ()
    extra_mounts: Unmodelled = None
    image: Unmodelled = None
    kubeadm_config_patches: Unmodelled = None
    kubeadm_config_patches_json6902: Unmodelled = None


class Pool(Record, kw_only=True, frozen=True):
    """A part of each node's pod range that is kept for some pods: from its address number `first` to number `last`.

    For the pods of the namespaces named, on the nodes named; a list that is empty stands for all, two empty ones for the pods alone
    that name the pool in their annotation kubenetlab.dev/pool.
    """

    name: str
    first: AddressNumber
    last: AddressNumber
    namespaces: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    def serves(self, node: str) -> bool:
        """True when the pool has addresses on a node."""
        return not self.nodes or node in self.nodes


class IPAM(Record, frozen=True):
    """How pods get their addresses."""

    pools: tuple[Pool, ...] = ()


class Networking(Record, frozen=True):
    """Families, ranges and modes."""

    ip_family: Annotated[Literal["ipv4", "ipv6", "dual"], Meta(examples=["ipv4"])] = "ipv4"
    pod_subnet: str = POD_SUBNETS[4]
    """In a dual-stack cluster one range per family, with a comma between them: the first is of the primary family."""
    service_subnet: str = SERVICE_SUBNETS[4]
    node_cidr_mask_size_ipv4: Annotated[int, Meta(ge=8, le=30, title="a prefix length")] = 24
    """How large the share of the pod range is that each node gets."""
    node_cidr_mask_size_ipv6: Annotated[int, Meta(ge=8, le=126, title="a prefix length")] = 64
    ipam: IPAM = IPAM()
    dns_domain: str = "cluster.local"
    cni: str | Mapping[str, Any] = "bridge"
    """The mode's name, or a mapping of `type` and the mode's options."""
    kube_proxy_mode: str | Mapping[str, Any] = "nftables"
    """Likewise, of what makes Services work."""
    disable_default_cni: bool = False
    """kind's word for `cni: none`."""

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
        """The IP versions that pods, nodes and Services have, the primary one first."""
        return tuple(network.version for network in self.pod_networks)

    def node_mask_size(self, version: int) -> int:
        """The prefix length of a node's share of the pod range."""
        return {4: self.node_cidr_mask_size_ipv4, 6: self.node_cidr_mask_size_ipv6}[version]

    @property
    def cni_mode(self) -> tuple[str, Mapping[str, Any]]:
        """(name, options) of the CNI mode."""
        return ("none", {}) if self.disable_default_cni else mode_and_options(self.cni)

    @property
    def proxy_mode(self) -> tuple[str, Mapping[str, Any]]:
        """(name, options) of the kube-proxy mode."""
        return mode_and_options(self.kube_proxy_mode)


class Fabric(Record, frozen=True):
    """How the nodes are wired to one another."""

    topology: Literal["switched", "routed"] = "switched"
    links: Unmodelled = None


class ExternalHost(Record, frozen=True):
    """A host in the internet: a client, or with `ports` a server."""

    name: str
    address: str
    """One address, or one per family with a comma between them. In a cluster with IPv6 a host that has none of that family gets the
    one that reads alike: 198.51.100.10 and 2001:db8:51:100::10."""
    ports: tuple[Port, ...] = ()

    def addresses(self, versions: Sequence[int]) -> tuple[str, ...]:
        """One for each version, in order; none where neither is given."""
        given = {ip_address(text).version: text for text in self.given_addresses}
        if 4 in given and 6 not in given:
            given[6] = str(INTERNET_SUBNETS[6][int(given[4].rpartition(".")[2], 16)])
        return tuple(str(ip_address(given[version])) for version in versions if version in given)

    @property
    def given_addresses(self) -> tuple[str, ...]:
        """As the document has them."""
        return tuple(part.strip() for part in self.address.split(","))


class ClusterConfig(Resource, frozen=True):
    """The nodes, ranges and modes of a lab."""

    api_version = API_VERSIONS[0]
    kind = "Cluster"
    plural = "clusters"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta()
    nodes: tuple[NodeConfig, ...] = (
        NodeConfig(role="control-plane"),
        NodeConfig(role="worker"),
        NodeConfig(role="worker"),
    )
    """Without any: a control plane and two workers; in kind's document a control plane alone."""
    networking: Networking = Networking()
    fabric: Fabric = Fabric()
    real_commands: bool = False
    """Runs a container's `command` where this machine has the program, instead of a stand-in."""
    drift: Annotated[Literal["repair", "keep"], Meta(examples=["keep"])] = "repair"
    """What becomes of a link, address, route or rule of the lab that somebody else changes: it is made anew within two seconds, or it
    stays until the next `up` or `apply`."""
    uplink: bool = False
    """Links the lab's router to the machine's own network: everybody in the lab reaches what the machine reaches, and the nodes'
    extraPortMappings are ports of the machine, too. Needs root; nothing else of a lab touches the machine."""
    external: tuple[ExternalHost, ...] = (ExternalHost(name="client", address="198.51.100.10"),)
    """Hosts in the internet. Without any: one client."""

    kubeadm_config_patches: Unmodelled = None
    kubeadm_config_patches_json6902: Unmodelled = None
    feature_gates: Unmodelled = None
    runtime_config: Unmodelled = None
    containerd_config_patches: Unmodelled = None
    containerd_config_patches_json6902: Unmodelled = None

    @property
    def node_networks(self) -> tuple[Network, ...]:
        """Where nodes' addresses come from: one network per family, the primary family first."""
        return tuple(NODE_SUBNETS[version] for version in self.networking.versions)

    @property
    def node_names(self) -> tuple[str, ...]:
        """Each node's name: as given, else control-plane, control-plane2, …, worker, worker2, …"""
        seen: dict[str, int] = {}
        names = []
        for node in self.nodes:
            seen[node.role] = count = seen.get(node.role, 0) + 1
            names.append(node.name or (node.role if count == 1 else f"{node.role}{count}"))
        return tuple(names)


def networks(text: str) -> tuple[Network, ...]:
    """`10.244.0.0/16,fd00:10:244::/56` as networks; ValueError when a part is none."""
    return tuple(ip_network(part.strip()) for part in text.split(","))


def mode_and_options(value: str | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """(name, options) of a mode written as a name or as a mapping with `type`."""
    if isinstance(value, str):
        return value, {}
    return str(value.get("type", "")), {
        key: option for key, option in value.items() if key != "type"
    }
