"""AdminNetworkPolicy and BaselineAdminNetworkPolicy, which ClusterNetworkPolicy has replaced.

Source: kubernetes-sigs/network-policy-api apis/v1alpha1/*.go (0.1.7).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, Protocol
from kubenetlab.api.meta import Record, Resource, Unmodelled
from kubenetlab.api.policies.cluster_network_policy import (
    MAX_PRIORITY,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicySubject,
)

BASELINE_NAME: Final = "default"
"""Name of the only BaselineAdminNetworkPolicy of a cluster."""
_MAX_ENTRIES: Final = 100
"""Maximum number of rules, peers and ports in one list."""

AdminAction = Literal["Allow", "Deny", "Pass"]
BaselineAction = Literal["Allow", "Deny"]


class AdminNetworkPolicyPortNumber(Record, frozen=True):
    """A port of the destination."""

    port: Port
    """Port number."""
    protocol: Protocol = "TCP"
    """Protocol of the port."""


class AdminNetworkPolicyPortRange(Record, frozen=True):
    """Ports of the destination from `start` to `end`, which is larger."""

    start: Port
    """First port."""
    end: Port
    """Last port."""
    protocol: Protocol = "TCP"
    """Protocol of the ports."""


class AdminNetworkPolicyPort(Record, frozen=True):
    """Ports of the destination, by exactly one field."""

    port_number: AdminNetworkPolicyPortNumber | None = None
    """A port."""
    named_port: str | None = None
    """Name of a container port of the destination pod, whatever its protocol."""
    port_range: AdminNetworkPolicyPortRange | None = None
    """Consecutive ports."""


_Ports = Annotated[tuple[AdminNetworkPolicyPort, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)]
_Sources = Annotated[
    tuple[ClusterNetworkPolicyIngressPeer, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)
]
_Destinations = Annotated[
    tuple[ClusterNetworkPolicyEgressPeer, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)
]


class AdminNetworkPolicyIngressRule(Record, frozen=True):
    """Action for connections to the subjects that match an entry of `from` and of `ports`."""

    action: AdminAction
    """Allow or deny the connection, or pass it to NetworkPolicies."""
    from_: _Sources
    """Sources."""
    ports: _Ports = ()
    """Ports of the subjects. Absent: all ports and protocols."""
    name: str = ""
    """Name of the rule, at most 100 characters."""


class AdminNetworkPolicyEgressRule(Record, frozen=True):
    """Action for connections of the subjects that match an entry of `to` and of `ports`."""

    action: AdminAction
    """Allow or deny the connection, or pass it to NetworkPolicies."""
    to: _Destinations
    """Destinations."""
    ports: _Ports = ()
    """Ports of the destinations. Absent: all ports and protocols."""
    name: str = ""
    """Name of the rule, at most 100 characters."""


class AdminNetworkPolicySpec(Record, frozen=True):
    """Desired state of an AdminNetworkPolicy."""

    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY, title="a priority")]
    """Order of the policies. The policy with the lowest number is evaluated first."""
    subject: ClusterNetworkPolicySubject
    """Pods to which the policy applies."""
    ingress: Annotated[
        tuple[AdminNetworkPolicyIngressRule, ...], Meta(max_length=_MAX_ENTRIES)
    ] = ()
    """Rules for connections to the subjects, of which the first that matches decides."""
    egress: Annotated[tuple[AdminNetworkPolicyEgressRule, ...], Meta(max_length=_MAX_ENTRIES)] = ()
    """Rules for connections of the subjects, of which the first that matches decides."""


class AdminNetworkPolicy(Resource, frozen=True):
    """Ordered rules that are evaluated before NetworkPolicies."""

    api_version = "policy.networking.k8s.io/v1alpha1"
    kind = "AdminNetworkPolicy"
    plural = "adminnetworkpolicies"
    short_names = ("anp",)
    is_namespaced = False

    spec: AdminNetworkPolicySpec
    """Desired state of the policy."""
    status: Unmodelled = None


class BaselineAdminNetworkPolicyIngressRule(Record, frozen=True):
    """Action for connections to the subjects that match an entry of `from` and of `ports`."""

    action: BaselineAction
    """Allow or deny the connection."""
    from_: _Sources
    """Sources."""
    ports: _Ports = ()
    """Ports of the subjects. Absent: all ports and protocols."""
    name: str = ""
    """Name of the rule, at most 100 characters."""


class BaselineAdminNetworkPolicyEgressRule(Record, frozen=True):
    """Action for connections of the subjects that match an entry of `to` and of `ports`."""

    action: BaselineAction
    """Allow or deny the connection."""
    to: _Destinations
    """Destinations."""
    ports: _Ports = ()
    """Ports of the destinations. Absent: all ports and protocols."""
    name: str = ""
    """Name of the rule, at most 100 characters."""


class BaselineAdminNetworkPolicySpec(Record, frozen=True):
    """Desired state of the BaselineAdminNetworkPolicy."""

    subject: ClusterNetworkPolicySubject
    """Pods to which the policy applies."""
    ingress: Annotated[
        tuple[BaselineAdminNetworkPolicyIngressRule, ...], Meta(max_length=_MAX_ENTRIES)
    ] = ()
    """Rules for connections to the subjects, of which the first that matches decides."""
    egress: Annotated[
        tuple[BaselineAdminNetworkPolicyEgressRule, ...], Meta(max_length=_MAX_ENTRIES)
    ] = ()
    """Rules for connections of the subjects, of which the first that matches decides."""


class BaselineAdminNetworkPolicy(Resource, frozen=True):
    """Ordered rules for pods that no NetworkPolicy isolates; the only object is `default`."""

    api_version = "policy.networking.k8s.io/v1alpha1"
    kind = "BaselineAdminNetworkPolicy"
    plural = "baselineadminnetworkpolicies"
    short_names = ("banp",)
    is_namespaced = False

    spec: BaselineAdminNetworkPolicySpec
    """Desired state of the policy."""
    status: Unmodelled = None
