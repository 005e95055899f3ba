"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: policies of the CNI plugin Cilium.

Source: cilium/cilium pkg/policy/api, pkg/k8s/apis/cilium.io/v2 (1.18).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.meta import LabelSelector, Record, Resource, Unmodelled
from kubenetlab.api.policies.cilium_l7 import CiliumL7Rules

Entity = Literal[
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "init",
    "ingress",
    "health",
    "unmanaged",
    "none",
]
"""Name for a group of peers without labels."""
_MAX_PORTS = 40


class CiliumCIDRRule(Record, frozen=True):
    """Range of addresses outside of the cluster, without some parts of it."""

    cidr: str = ""
    """The range, such as 10.0.0.0/8."""
    cidr_group_ref: str = ""
    """Name of a CiliumCIDRGroup, in place of `cidr`. A group that is missing has no ranges."""
    cidr_group_selector: LabelSelector | None = None
    """Labels of CiliumCIDRGroups, in place of `cidr`."""
    except_: tuple[str, ...] = ()
    """Ranges that do not belong to the peer, within `cidr` if it is set. Other peers may have
    them."""


class CiliumPortProtocol(Record, frozen=True):
    """Ports of the destination."""

    port: str
    """Number, or name of a container port of the destination pod. All ports if it is 0."""
    end_port: Annotated[int, Meta(ge=0, le=MAX_PORT, title="a port number")] = 0
    """Last port of a range that begins with `port`, which must be a number."""
    protocol: Literal["TCP", "UDP", "SCTP", "ANY"] = "ANY"
    """Protocol of the ports. ANY: TCP, UDP and SCTP."""


class CiliumPortRule(Record, frozen=True):
    """Ports of the destination, and what is allowed there on layer 7."""

    ports: Annotated[tuple[CiliumPortProtocol, ...], Meta(max_length=_MAX_PORTS)] = ()
    """Ports, of which one has to match."""
    rules: CiliumL7Rules | None = None
    """Requests that are allowed. The lab enforces the ports only, and reports the rest."""
    terminating_tls: Unmodelled = None
    originating_tls: Unmodelled = None
    server_names: tuple[str, ...] = ()
    """Names of TLS servers that are allowed. Not enforced by the lab."""
    listener: Unmodelled = None


class CiliumPortDenyRule(Record, frozen=True):
    """Ports of the destination that are denied."""

    ports: Annotated[tuple[CiliumPortProtocol, ...], Meta(max_length=_MAX_PORTS)] = ()
    """Ports, of which one has to match."""


class CiliumICMPField(Record, frozen=True):
    """Type of ICMP messages."""

    type: int | str
    """Number, or name such as EchoRequest."""
    family: Literal["IPv4", "IPv6"] = "IPv4"
    """IP version."""


class CiliumICMPRule(Record, frozen=True):
    """Types of ICMP messages."""

    fields: Annotated[tuple[CiliumICMPField, ...], Meta(max_length=_MAX_PORTS)] = ()
    """Types, of which one has to match."""


class CiliumFQDNSelector(Record, frozen=True):
    """Names of external hosts, by exactly one field."""

    match_name: str = ""
    """A name, such as api.example.com."""
    match_pattern: str = ""
    """Pattern. `*` stands for characters of one label, `**.` at the start for several labels."""


class CiliumServiceName(Record, frozen=True):
    """A Service by its name."""

    service_name: str = ""
    """Name of the Service."""
    namespace: str = ""
    """Namespace of the Service. Defaults to that of the policy."""


class CiliumServiceSelector(Record, frozen=True):
    """Services by their labels."""

    selector: LabelSelector
    """Labels of the Services."""
    namespace: str = ""
    """Namespace of the Services. Empty: all namespaces."""


class CiliumService(Record, frozen=True):
    """Pods and addresses behind Services, by exactly one field."""

    k8s_service: CiliumServiceName | None = None
    """A Service by its name."""
    k8s_service_selector: CiliumServiceSelector | None = None
    """Services by their labels."""


class CiliumAuthentication(Record, frozen=True):
    """Authentication between source and destination."""

    mode: Literal["disabled", "required", "test-always-fail"]
    """Not enforced by the lab, unless it is disabled."""


class _IngressPeers(Record, frozen=True):
    """Sources of connections, by at most one field. An empty list means no source."""

    from_endpoints: tuple[LabelSelector, ...] | None = None
    """Pods by their labels, of the policy's own namespace unless a label names others."""
    from_requires: tuple[LabelSelector, ...] | None = None
    """Labels that sources must have as well. Removed in Cilium 1.19; not enforced by the lab."""
    from_cidr: tuple[str, ...] | None = None
    """Ranges of addresses outside of the cluster. Addresses of pods and nodes do not count."""
    from_cidr_set: tuple[CiliumCIDRRule, ...] | None = None
    """Ranges of addresses outside of the cluster, with exceptions."""
    from_entities: tuple[Entity, ...] | None = None
    """Peers without labels, such as world, cluster, host and remote-node."""
    from_nodes: tuple[LabelSelector, ...] | None = None
    """Nodes by their labels."""
    from_groups: Unmodelled = None
    icmps: tuple[CiliumICMPRule, ...] = ()
    """Types of ICMP messages. Empty: see `toPorts`."""

    @property
    def peer_fields(self) -> dict[str, tuple[object, ...] | None]:
        """Fields with sources, of which at most one may have entries."""
        return {
            "fromEndpoints": self.from_endpoints,
            "fromCIDR": self.from_cidr,
            "fromCIDRSet": self.from_cidr_set,
            "fromEntities": self.from_entities,
            "fromNodes": self.from_nodes,
            "fromGroups": None if self.from_groups is None else (self.from_groups,),
        }


class CiliumIngressRule(_IngressPeers, frozen=True):
    """Connections that the selected pods accept. A rule without any field allows nothing."""

    to_ports: tuple[CiliumPortRule, ...] = ()
    """Ports of the selected pods. Empty, and no `icmps`: all ports and protocols."""
    authentication: CiliumAuthentication | None = None
    """Authentication of the source."""


class CiliumIngressDenyRule(_IngressPeers, frozen=True):
    """Connections to the selected pods that are denied, whatever other rules allow."""

    to_ports: tuple[CiliumPortDenyRule, ...] = ()
    """Ports of the selected pods. Empty, and no `icmps`: all ports and protocols."""


class _EgressPeers(Record, frozen=True):
    """Destinations of connections, by at most one field. An empty list means no destination."""

    to_endpoints: tuple[LabelSelector, ...] | None = None
    """Pods by their labels, of the policy's own namespace unless a label names others."""
    to_requires: tuple[LabelSelector, ...] | None = None
    """Labels that destinations must have as well. Removed in Cilium 1.19; not enforced."""
    to_cidr: tuple[str, ...] | None = None
    """Ranges of addresses outside of the cluster. Addresses of pods and nodes do not count."""
    to_cidr_set: tuple[CiliumCIDRRule, ...] | None = None
    """Ranges of addresses outside of the cluster, with exceptions."""
    to_entities: tuple[Entity, ...] | None = None
    """Peers without labels, such as world, cluster, host and remote-node."""
    to_services: tuple[CiliumService, ...] | None = None
    """Pods that Services select, and the addresses of Services without a selector."""
    to_nodes: tuple[LabelSelector, ...] | None = None
    """Nodes by their labels."""
    to_groups: Unmodelled = None
    icmps: tuple[CiliumICMPRule, ...] = ()
    """Types of ICMP messages. Empty: see `toPorts`."""

    @property
    def peer_fields(self) -> dict[str, tuple[object, ...] | None]:
        """Fields with destinations, of which at most one may have entries."""
        return {
            "toEndpoints": self.to_endpoints,
            "toCIDR": self.to_cidr,
            "toCIDRSet": self.to_cidr_set,
            "toEntities": self.to_entities,
            "toServices": self.to_services,
            "toNodes": self.to_nodes,
            "toGroups": None if self.to_groups is None else (self.to_groups,),
        }


class CiliumEgressRule(_EgressPeers, frozen=True):
    """Connections that the selected pods make. A rule without any field allows nothing."""

    to_fqdns: tuple[CiliumFQDNSelector, ...] | None = None
    """External hosts by their DNS names."""
    to_ports: tuple[CiliumPortRule, ...] = ()
    """Ports of the destinations. Empty, and no `icmps`: all ports and protocols."""
    authentication: CiliumAuthentication | None = None
    """Authentication of the destination."""

    @property
    def peer_fields(self) -> dict[str, tuple[object, ...] | None]:
        return {**super().peer_fields, "toFQDNs": self.to_fqdns}


class CiliumEgressDenyRule(_EgressPeers, frozen=True):
    """Connections of the selected pods that are denied, whatever other rules allow."""

    to_ports: tuple[CiliumPortDenyRule, ...] = ()
    """Ports of the destinations. Empty, and no `icmps`: all ports and protocols."""


class CiliumDefaultDeny(Record, frozen=True):
    """Directions in which connections of the selected pods are denied unless a rule allows them."""

    ingress: bool | None = None
    """Defaults to true if there are rules in `ingress` or `ingressDeny`."""
    egress: bool | None = None
    """Defaults to true if there are rules in `egress` or `egressDeny`."""


class CiliumRule(Record, frozen=True):
    """Pods, and the connections that they accept and make."""

    endpoint_selector: LabelSelector | None = None
    """Pods to which the rules apply. Empty: all pods, of the policy's namespace if it has one."""
    node_selector: LabelSelector | None = None
    """Nodes to which the rules apply. The lab does not enforce policies of nodes."""
    ingress: tuple[CiliumIngressRule, ...] = ()
    """Connections that the pods accept."""
    ingress_deny: tuple[CiliumIngressDenyRule, ...] = ()
    """Connections to the pods that are denied. They take precedence over all that is allowed."""
    egress: tuple[CiliumEgressRule, ...] = ()
    """Connections that the pods make."""
    egress_deny: tuple[CiliumEgressDenyRule, ...] = ()
    """Connections of the pods that are denied. They take precedence over all that is allowed."""
    enable_default_deny: CiliumDefaultDeny = CiliumDefaultDeny()
    """Directions in which other connections are denied."""
    description: str = ""
    """Text for readers."""
    labels: Unmodelled = None
    log: Unmodelled = None


class CiliumNetworkPolicy(Resource, frozen=True):
    """Connections of pods of one namespace that are allowed and denied, with the CNI Cilium."""

    api_version = "cilium.io/v2"
    kind = "CiliumNetworkPolicy"
    plural = "ciliumnetworkpolicies"
    short_names = ("ciliumnp",)

    spec: CiliumRule | None = None
    """Pods and their rules."""
    specs: tuple[CiliumRule, ...] = ()
    """Further pods and their rules."""
    status: Unmodelled = None


class CiliumClusterwideNetworkPolicy(Resource, frozen=True):
    """Connections of pods of all namespaces that are allowed and denied, with the CNI Cilium."""

    api_version = "cilium.io/v2"
    kind = "CiliumClusterwideNetworkPolicy"
    plural = "ciliumclusterwidenetworkpolicies"
    short_names = ("ccnp",)
    is_namespaced = False

    spec: CiliumRule | None = None
    """Pods and their rules."""
    specs: tuple[CiliumRule, ...] = ()
    """Further pods and their rules."""
    status: Unmodelled = None


CiliumPolicy = CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy
