"""Policies of the tiers around NetworkPolicies, without selectors.

Nodes that are peers become ranges of their addresses. A named port has no protocol, so it becomes
one for each protocol; a name that no container port can have is left out. Domain names become the
addresses that the cluster's DNS answers for external hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.containers import Protocol
from kubenetlab.api.core import Node
from kubenetlab.api.meta import Labels, LabelSelector
from kubenetlab.api.policies.cluster_network_policy import (
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyProtocol,
    ClusterNetworkPolicySubject,
    matches_domain,
)
from kubenetlab.api.policies.network_policy import Direction, IPBlock
from kubenetlab.api.policies.tiers import TierKind, TierPolicy, tier_policy
from kubenetlab.api.store import Cluster
from kubenetlab.api.validate.syntax import port_name_fault
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.members import PodGroup
from kubenetlab.datapath.policy.rules import (
    ADMIN,
    BASELINE,
    IsolatingPolicy,
    PolicyRule,
    PortName,
    PortRange,
    disjoint_ranges,
    merged_ports,
)


class PolicyNode(Struct, frozen=True):
    """A node as rules see it."""

    labels: Labels
    addresses: tuple[str, ...]


class PolicyHost(Struct, frozen=True):
    """An external host as rules see it."""

    name: str
    addresses: tuple[str, ...]


class Addressees(Struct, frozen=True):
    """Nodes and external hosts, some of which rules may have as peers."""

    nodes: tuple[PolicyNode, ...]
    hosts: tuple[PolicyHost, ...]


_PROTOCOLS: Final[tuple[Protocol, ...]] = ("TCP", "UDP", "SCTP")
_Peer = ClusterNetworkPolicyIngressPeer | ClusterNetworkPolicyEgressPeer


def in_tier(policy: TierKind, addressees: Addressees) -> tuple[IsolatingPolicy, ...]:
    """Return a policy of a tier in the directions for which it has rules."""
    resolved = tier_policy(policy)
    return tuple(
        IsolatingPolicy(
            resolved.name,
            direction,
            _group(resolved.spec.subject),
            tuple(_rules(resolved, direction, addressees)),
            resolved.kind,
            ADMIN if resolved.spec.tier == "Admin" else BASELINE,
            resolved.spec.priority,
            isolates=False,
        )
        for direction in sorted(resolved.spec.directions, reverse=True)
    )


def addressees(cluster: Cluster) -> Addressees:
    """Return the nodes and external hosts of a cluster."""
    config = cluster.config
    versions = config.networking.versions
    return Addressees(
        tuple(PolicyNode(node.labels, node.addresses) for node in cluster.all(Node)),
        tuple(PolicyHost(host.name, host.addresses(versions)) for host in config.external),
    )


def _rules(
    policy: TierPolicy, direction: Direction, addressees: Addressees
) -> Iterator[PolicyRule]:
    if direction == "Ingress":
        for index, ingress in enumerate(policy.spec.ingress):
            yield _rule(index, ingress, ingress.from_, ())
    else:
        for index, egress in enumerate(policy.spec.egress):
            yield _rule(index, egress, egress.to, tuple(_addresses(egress.to, addressees)))


def _rule(
    index: int,
    rule: ClusterNetworkPolicyIngressRule | ClusterNetworkPolicyEgressRule,
    peers: Sequence[_Peer],
    ranges: Sequence[str],
) -> PolicyRule:
    groups = (
        _group(peer) for peer in peers if peer.namespaces is not None or peer.pods is not None
    )
    return PolicyRule(
        index,
        is_any_peer=False,
        groups=tuple(dict.fromkeys(groups)),
        ranges=tuple(disjoint_ranges([IPBlock(cidr) for cidr in ranges])),
        is_any_port=not rule.protocols,
        ports=tuple(merged_ports([*_ports(rule.protocols)])),
        port_names=tuple(
            PortName(protocol, entry.destination_named_port)
            for entry in rule.protocols
            if entry.match is None and port_name_fault(entry.destination_named_port) is None
            for protocol in _PROTOCOLS
        ),
        action=rule.action,
    )


def _group(selection: ClusterNetworkPolicySubject | _Peer) -> PodGroup:
    if selection.pods is None:
        return PodGroup.of("", None, selection.namespaces)
    namespaces = selection.pods.namespace_selector or LabelSelector()
    return PodGroup.of("", selection.pods.pod_selector, namespaces)


def _addresses(
    peers: Sequence[ClusterNetworkPolicyEgressPeer], addressees: Addressees
) -> Iterator[str]:
    """Yield the ranges of networks, and those of nodes and external hosts."""
    for peer in peers:
        yield from peer.networks
        for node in addressees.nodes:
            if peer.nodes is not None and peer.nodes.matches(node.labels):
                yield from map(_host_range, node.addresses)
        for host in addressees.hosts:
            if any(matches_domain(pattern, host.name) for pattern in peer.domain_names):
                yield from map(_host_range, host.addresses)


def _host_range(address: str) -> str:
    return f"{address}/{32 if ip.version_of(address) == 4 else 128}"


def _ports(protocols: Iterable[ClusterNetworkPolicyProtocol]) -> Iterator[PortRange]:
    for entry in protocols:
        if entry.match is not None:
            protocol, match = entry.match
            if match.destination_port is not None:
                yield PortRange(protocol, *match.destination_port.limits)
