"""Policies of the tiers around NetworkPolicies: every kind as a ClusterNetworkPolicy, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.policies.admin_network_policies import (
    AdminNetworkPolicy,
    AdminNetworkPolicyEgressRule,
    AdminNetworkPolicyIngressRule,
    AdminNetworkPolicyPort,
    AdminNetworkPolicySpec,
    BaselineAdminNetworkPolicy,
    BaselineAdminNetworkPolicyEgressRule,
    BaselineAdminNetworkPolicyIngressRule,
    BaselineAdminNetworkPolicySpec,
)
from kubenetlab.api.policies.cluster_network_policy import (
    MAX_PRIORITY,
    Action,
    ClusterNetworkPolicy,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyProtocol,
    ClusterNetworkPolicySpec,
    DestinationPort,
    DestinationPortRange,
    ProtocolMatch,
    Tier,
)
from kubenetlab.api.store import Cluster

TierKind = ClusterNetworkPolicy | AdminNetworkPolicy | BaselineAdminNetworkPolicy
TIER_KINDS: Final[tuple[type[TierKind], ...]] = (
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
)
"""Kinds of policies that belong to a tier."""


class TierPolicy(Struct, frozen=True):
    """Policy of a tier, whatever its kind."""

    kind: str
    """Kind of the object."""
    name: str
    """Name of the object."""
    spec: ClusterNetworkPolicySpec
    """Its content as that of a ClusterNetworkPolicy."""

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def tier_policies(cluster: Cluster) -> list[TierPolicy]:
    """Return the policies of all tiers, in the order in which they are evaluated.

    Between policies with the same priority the API defines no order. The lab orders them by name,
    then by kind, so that the same manifests always give the same verdicts.
    """
    return in_order(tier_policy(policy) for kind in TIER_KINDS for policy in cluster.all(kind))


def in_order(policies: Iterable[TierPolicy]) -> list[TierPolicy]:
    """Return policies in the order in which they are evaluated."""
    return sorted(
        policies,
        key=lambda policy: (policy.spec.tier, policy.spec.priority, policy.name, policy.kind),
    )


def tier_policy(policy: TierKind) -> TierPolicy:
    """Return a policy as one of a tier.

    A BaselineAdminNetworkPolicy has no priority, and comes after all others of its tier.
    """
    match policy:
        case ClusterNetworkPolicy():
            spec = policy.spec
        case AdminNetworkPolicy():
            spec = _spec(policy.spec, "Admin", policy.spec.priority)
        case BaselineAdminNetworkPolicy():
            spec = _spec(policy.spec, "Baseline", MAX_PRIORITY + 1)
    return TierPolicy(policy.kind, policy.name, spec)


def _spec(
    spec: AdminNetworkPolicySpec | BaselineAdminNetworkPolicySpec, tier: Tier, priority: int
) -> ClusterNetworkPolicySpec:
    return ClusterNetworkPolicySpec(
        tier,
        priority,
        spec.subject,
        tuple(_ingress(rule) for rule in spec.ingress),
        tuple(_egress(rule) for rule in spec.egress),
    )


def _ingress(
    rule: AdminNetworkPolicyIngressRule | BaselineAdminNetworkPolicyIngressRule,
) -> ClusterNetworkPolicyIngressRule:
    return ClusterNetworkPolicyIngressRule(
        _action(rule.action), rule.from_, _protocols(rule.ports), rule.name
    )


def _egress(
    rule: AdminNetworkPolicyEgressRule | BaselineAdminNetworkPolicyEgressRule,
) -> ClusterNetworkPolicyEgressRule:
    return ClusterNetworkPolicyEgressRule(
        _action(rule.action), rule.to, _protocols(rule.ports), rule.name
    )


def _action(action: str) -> Action:
    match action:
        case "Allow":
            return "Accept"
        case "Deny":
            return "Deny"
    return "Pass"


def _protocols(
    ports: Sequence[AdminNetworkPolicyPort],
) -> tuple[ClusterNetworkPolicyProtocol, ...]:
    return tuple(map(_protocol, ports))


def _protocol(entry: AdminNetworkPolicyPort) -> ClusterNetworkPolicyProtocol:
    if entry.port_number is not None:
        protocol = entry.port_number.protocol
        port = DestinationPort(number=entry.port_number.port)
    elif entry.port_range is not None:
        protocol = entry.port_range.protocol
        port = DestinationPort(
            range=DestinationPortRange(entry.port_range.start, entry.port_range.end)
        )
    else:
        return ClusterNetworkPolicyProtocol(destination_named_port=entry.named_port or "")
    match = ProtocolMatch(port)
    return ClusterNetworkPolicyProtocol(
        tcp=match if protocol == "TCP" else None,
        udp=match if protocol == "UDP" else None,
        sctp=match if protocol == "SCTP" else None,
    )
