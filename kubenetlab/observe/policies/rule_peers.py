"""Pods, nodes and hosts outside that each rule of a policy means, whatever its ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kubenetlab.api.calico.policies import CalicoEntityRule, CalicoPolicy
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_network_policy import CiliumPolicy
from kubenetlab.api.policies.cilium_rules import AnyCiliumRule, has_peers, sections
from kubenetlab.api.policies.network_policy import DIRECTIONS
from kubenetlab.api.policies.tiers import TierPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.observe.policies.calico import CalicoRules
from kubenetlab.observe.policies.cilium import CiliumRules
from kubenetlab.observe.policies.model import Party
from kubenetlab.observe.policies.peers import NamedHost, PolicyMembers
from kubenetlab.observe.policies.subjects import Subjects
from kubenetlab.observe.policies.tiers import TierPeer, TierRules, rules_of

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

_CALICO_PEER_FIELDS: Final = (
    "nets",
    "not_nets",
    "selector",
    "not_selector",
    "namespace_selector",
    "service_accounts",
    "services",
)
"""Fields of an entity rule by which it means some hosts alone."""


class RulePeers(Struct, frozen=True):
    """Peers of one rule."""

    path: Path
    """Path of the rule in the policy's document."""
    hosts: tuple[NamedHost, ...] | None
    """Hosts with the addresses that are meant; None if the rule means every host."""


class RulePeersOfLab:
    """Peers of rules in one lab."""

    def __init__(self, cluster: Cluster, seen: Inspection) -> None:
        subjects = Subjects(cluster)
        self._tiers = TierRules(cluster, subjects)
        self._calico = CalicoRules(cluster, subjects)
        self._cilium = CiliumRules(cluster, subjects)
        self._members = PolicyMembers(cluster, seen)
        self._parties = dict(_parties(cluster, subjects, seen))
        """Name of each pod, node and host outside → its addresses."""

    def of_tier(self, policy: TierPolicy) -> list[RulePeers]:
        """Return the peers of the rules of a policy of a tier."""
        result = []
        for direction in DIRECTIONS:
            for index, (peers, *_) in enumerate(rules_of(policy, direction)):

                def is_peer(party: Party, peers: Sequence[TierPeer] = peers) -> bool:
                    return any(self._tiers.is_peer(peer, party) for peer in peers)

                path = ("spec", direction.lower(), index)
                result.append(RulePeers(path, self._hosts(is_peer)))
        return result

    def of_calico(self, policy: CalicoPolicy) -> list[RulePeers]:
        """Return the peers of the rules of a policy of Calico."""
        result = []
        for direction in DIRECTIONS:
            for index, rule in enumerate(policy.spec.rules(direction)):
                entity = rule.source if direction == "Ingress" else rule.destination

                def is_peer(party: Party, entity: CalicoEntityRule = entity) -> bool:
                    return self._calico.is_peer(entity, policy.namespace, party)

                is_any = not any(getattr(entity, name) for name in _CALICO_PEER_FIELDS)
                path = ("spec", direction.lower(), index)
                result.append(RulePeers(path, None if is_any else self._hosts(is_peer)))
        return result

    def of_cilium(self, policy: CiliumPolicy) -> list[RulePeers]:
        """Return the peers of the rules of a policy of Cilium.

        `host` is the node of a selected pod, and `remote-node` any other node.
        """
        result = []
        for section in sections(policy):
            pods = self._members.selected_by_cilium(policy, section.rule)
            nodes = {pod.spec.node_name: _party_of(pod, "") for pod in pods}
            subjects = tuple(nodes.values()) or (Party(""),)
            for index, rule in enumerate(section.rules):

                def is_peer(
                    party: Party, rule: AnyCiliumRule = rule, subjects: Sequence[Party] = subjects
                ) -> bool:
                    return any(self._cilium.is_peer(policy, rule, each, party) for each in subjects)

                named = has_peers(rule)
                hosts = None if named is None else self._hosts(is_peer) if named else ()
                result.append(RulePeers((*section.path, index), hosts))
        return result

    def _hosts(self, is_peer: Callable[[Party], bool]) -> tuple[NamedHost, ...]:
        """Return the hosts with an address that is a peer."""
        return tuple(
            NamedHost(name, own)
            for name, parties in self._parties.items()
            if (own := tuple(party.address for party in parties if is_peer(party)))
        )


def _parties(
    cluster: Cluster, subjects: Subjects, seen: Inspection
) -> Iterator[tuple[str, list[Party]]]:
    for pod in cluster.all(Pod):
        if pod.full_name in subjects:
            yield pod.full_name, [_party_of(pod, address) for address in pod.addresses]
    for node in seen["nodes"]:
        own = [Party(address, node=node["name"]) for address in node["addresses"]]
        yield f"node:{node['name']}", own
    for host in seen["external"]:
        yield f"ext:{host['name']}", [Party(address) for address in host["addresses"]]


def _party_of(pod: Pod, address: str) -> Party:
    return Party(address, pod.full_name, pod.spec.node_name)
