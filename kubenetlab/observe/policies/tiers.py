"""Rules of the tiers around NetworkPolicies: the first that matches a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from kubenetlab.api.core import Node
from kubenetlab.api.policies.cluster_network_policy import (
    Action,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicyProtocol,
    Tier,
    matches_domain,
    selects,
)
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.policies.tiers import TierPolicy, tier_policies
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.model import Party, RuleReference, Traffic
from kubenetlab.observe.policies.subjects import Subjects, is_in

TierPeer = ClusterNetworkPolicyIngressPeer | ClusterNetworkPolicyEgressPeer


class TierRules:
    """Rules of the policies of all tiers in one version of the store."""

    def __init__(self, cluster: Cluster, subjects: Subjects) -> None:
        self._cluster = cluster
        self._subjects = subjects
        self._of_pods: dict[tuple[str, Direction, Tier], Sequence[TierPolicy]] = {}

    def first_rule(
        self,
        tier: Tier,
        direction: Direction,
        subject: Party,
        peer: Party,
        destination: Party,
        traffic: Traffic,
    ) -> RuleReference | None:
        """Return the first rule of a tier that matches a connection, for one of its ends."""
        for policy in self._policies(subject.pod, direction, tier):
            for index, (peers, protocols, action, name) in enumerate(rules_of(policy, direction)):
                is_protocol = not protocols or any(
                    self._is_protocol(entry, destination, traffic) for entry in protocols
                )
                if is_protocol and any(self.is_peer(entry, peer) for entry in peers):
                    return RuleReference(policy.name, index, policy.kind, name, action)
        return None

    def _policies(self, name: str, direction: Direction, tier: Tier) -> Sequence[TierPolicy]:
        """Return the policies of a tier that apply to a pod, in order; none for other parties."""
        pod = self._subjects.get(name)
        if pod is None:
            return ()
        key = (name, direction, tier)
        if key not in self._of_pods:
            namespace = self._subjects.namespace_labels(pod)
            self._of_pods[key] = [
                policy
                for policy in self._all
                if policy.spec.tier == tier
                and direction in policy.spec.directions
                and policy.spec.subject.matches(namespace, pod.labels)
            ]
        return self._of_pods[key]

    @cached_property
    def _all(self) -> Sequence[TierPolicy]:
        return tier_policies(self._cluster)

    def is_peer(self, peer: TierPeer, party: Party) -> bool:
        """Return True if a party is a peer. Domain names are those of external hosts."""
        if peer.namespaces is not None or peer.pods is not None:
            pod = self._subjects.get(party.pod)
            return pod is not None and selects(
                peer.namespaces, peer.pods, self._subjects.namespace_labels(pod), pod.labels
            )
        if isinstance(peer, ClusterNetworkPolicyIngressPeer):
            return False
        if peer.nodes is not None:
            return any(
                party.address in node.addresses and peer.nodes.matches(node.labels)
                for node in self._cluster.all(Node)
            )
        return any(is_in(party.address, cidr) for cidr in peer.networks) or any(
            matches_domain(pattern, name)
            for name in self._names.get(party.address, ())
            for pattern in peer.domain_names
        )

    @cached_property
    def _names(self) -> Mapping[str, Sequence[str]]:
        """Address of an external host → its names."""
        return self._cluster.config.names_of_hosts()

    def _is_protocol(
        self, entry: ClusterNetworkPolicyProtocol, destination: Party, traffic: Traffic
    ) -> bool:
        if entry.match is None:
            name = entry.destination_named_port
            return traffic.port in self._subjects.ports_named(
                destination.pod, name, traffic.protocol
            )
        protocol, match = entry.match
        if protocol != traffic.protocol or match.destination_port is None:
            return protocol == traffic.protocol
        first, last = match.destination_port.limits
        return first <= traffic.port <= last


def rules_of(
    policy: TierPolicy, direction: Direction
) -> Iterable[tuple[Sequence[TierPeer], Sequence[ClusterNetworkPolicyProtocol], Action, str]]:
    """Return peers, protocols, action and name of each rule of a policy in one direction."""
    if direction == "Ingress":
        return (
            (rule.from_, rule.protocols, rule.action, rule.name) for rule in policy.spec.ingress
        )
    return ((rule.to, rule.protocols, rule.action, rule.name) for rule in policy.spec.egress)
