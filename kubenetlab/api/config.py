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

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

from msgspec import Meta

from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.pods import Port, Protocol

API_VERSIONS = ("kubenetlab.dev/v1alpha1", "kind.x-k8s.io/v1alpha4")

Network = IPv4Network | IPv6Network

NODE_SUBNET = "172.18.0.0/16"
INTERNET_SUBNET = "198.51.100.0/24"
LOAD_BALANCER_SUBNET = "203.0.113.0/24"
NODE_CIDR_MASK_SIZE = 24


class PortMapping(Record, frozen=True):
    """A port of the world outside that leads to one of the node's."""

    container_port: Port
    host_port: Annotated[int, Meta(ge=0, le=65535, title="a port number")] = 0
    listen_address: str = ""
    protocol: Protocol = "TCP"


class NodeConfig(Record, frozen=True):
    """One node: its role, and perhaps a name and labels of its own."""

    role: Literal["control-plane", "worker"] = "control-plane"
    name: str = ""
    labels: Labels = {}
    extra_port_mappings: tuple[PortMapping, ...] = ()
    extra_mounts: Unmodelled = None
    image: Unmodelled = None
    kubeadm_config_patches: Unmodelled = None
    kubeadm_config_patches_json6902: Unmodelled = None


class Networking(Record, frozen=True):
    """Families, ranges and modes."""

    ip_family: Literal["ipv4", "ipv6", "dual"] = "ipv4"
    pod_subnet: str = "10.244.0.0/16"
    service_subnet: str = "10.96.0.0/16"
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
    ports: tuple[Port, ...] = ()


class ClusterConfig(Resource, frozen=True):
    """The nodes, ranges and modes of a lab."""

    api_version = API_VERSIONS[0]
    kind = "Cluster"
    plural = "clusters"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta()
    nodes: tuple[NodeConfig, ...] = (NodeConfig(role="control-plane"), NodeConfig(role="worker"), NodeConfig(role="worker"))
    """Without any: a control plane and two workers; in kind's document a control plane alone."""
    networking: Networking = Networking()
    fabric: Fabric = Fabric()
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
        return (ip_network(NODE_SUBNET),)

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
    return str(value.get("type", "")), {key: option for key, option in value.items() if key != "type"}
