"""Evaluator of network policies: verdicts about connections, and the rules behind them.

It follows the definition of the API, connection by connection, and shares no code with the policy
engines, whose rules in the kernel it checks.

A connection is allowed if its source may make it and its destination accepts it. Each of the two
directions is decided in the first of these stages that has a decision:

    Admin          the first rule that matches, of the policies of this tier in order: Accept and
                   Deny decide, Pass skips the rest of the tier
    NetworkPolicy  if a NetworkPolicy isolates the pod: allowed if a rule of one of them allows it
    Baseline       as Admin
    default        allowed

Policies of Calico are in the stage NetworkPolicy, too, or in tiers of their own (calico.py). If
some of them apply to a pod, the policies of the stage have an order, and the first rule that
matches decides or passes.

Policies of Cilium are united with NetworkPolicies (cilium.py). A rule of them that denies comes
before all rules that allow.

To NetworkPolicies a pod always reaches itself, and a node always reaches its own pods and is
reached by them. The policies of tiers apply to a pod that reaches itself by a Service, and to a pod
that reaches its node. Pods with hostNetwork are part of their node.

Source: kubernetes.io/docs/concepts/services-networking/network-policies (1.33);
kubernetes-sigs/network-policy-api apis/v1alpha2 and site-src/api-overview.md (0.2.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Final

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.calico.policies import DEFAULT_TIER
from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.policies.cluster_network_policy import Tier
from kubenetlab.api.policies.network_policy import (
    Direction,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.calico import CalicoRules, CalicoTier, Ends, network_policy_place
from kubenetlab.observe.policies.cilium import CiliumOutcome, CiliumRules
from kubenetlab.observe.policies.model import DirectionVerdict as DirectionVerdict
from kubenetlab.observe.policies.model import Party as Party
from kubenetlab.observe.policies.model import RuleReference as RuleReference
from kubenetlab.observe.policies.model import Traffic as Traffic
from kubenetlab.observe.policies.model import Verdict as Verdict
from kubenetlab.observe.policies.subjects import Subjects, is_in_block
from kubenetlab.observe.policies.tiers import TierRules

_DEFAULT_PLACE: Final = (1_000_000, DEFAULT_TIER)


class _OtherTier(Struct, frozen=True, order=True):
    """A tier that is not the default one."""

    place: tuple[float, str]
    """Order and name."""
    tier: Tier | CalicoTier


def _of_calico(tier: CalicoTier) -> _OtherTier:
    return _OtherTier((tier.order, tier.name), tier)


class _Outcome(Struct, frozen=True):
    """Outcome of several tiers: a rule that decides, or passes; or policies that isolate."""

    rule: RuleReference | None = None
    isolated_by: tuple[str, ...] = ()
    tier: str = ""
    """Name of the tier whose policies isolate."""

    @property
    def is_final(self) -> bool:
        return self.rule is not None and self.rule.action != "Pass"


class _DefaultOutcome(Struct, frozen=True):
    """Outcome of the default tier."""

    verdict: DirectionVerdict
    is_final: bool
    """True if no further tier is evaluated."""


class Evaluator:
    """The policies of one version of the store."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._subjects = Subjects(cluster)
        self._tiers = TierRules(cluster, self._subjects)
        self._calico = CalicoRules(cluster, self._subjects)
        self._cilium = CiliumRules(cluster, self._subjects)
        self._selected: dict[bytes, AbstractSet[str]] = {}
        """Namespace selector, encoded → names of the namespaces that it matches."""
        self._isolating: dict[tuple[str, Direction], Sequence[NetworkPolicy]] = {}

    def verdict(self, source: Party, destination: Party, traffic: Traffic) -> Verdict:
        """Return the verdict about a connection."""
        exemption = self._exemption(source, destination)
        if exemption and not self._is_seen_by_tiers(source, destination, traffic):
            return Verdict(DirectionVerdict("Egress"), DirectionVerdict("Ingress"), exemption)
        return Verdict(
            self._one_end("Egress", source, destination, destination, traffic, exemption),
            self._one_end("Ingress", destination, source, destination, traffic, exemption),
            exemption,
        )

    def _exemption(self, source: Party, destination: Party) -> str:
        """Return the reason why NetworkPolicies do not apply, or an empty text."""
        if source.pod and source.pod == destination.pod:
            return "a pod always reaches itself"
        if source.node and source.node == destination.node:
            if source.pod not in self._subjects:
                return "a node always reaches its own pods"
            if destination.pod not in self._subjects:
                return "a pod always reaches its own node"
        return ""

    def _is_seen_by_tiers(self, source: Party, destination: Party, traffic: Traffic) -> bool:
        """Return True if a connection to which NetworkPolicies do not apply leaves its pod."""
        if source.pod and source.pod == destination.pod:
            return traffic.is_to_service
        return source.pod in self._subjects

    @cached_property
    def _policies(self) -> dict[str, list[NetworkPolicy]]:
        """Policies by namespace, in order of creation."""
        result: dict[str, list[NetworkPolicy]] = {}
        for policy in self._cluster.all(NetworkPolicy):
            result.setdefault(policy.namespace, []).append(policy)
        return result

    def _one_end(
        self,
        direction: Direction,
        subject: Party,
        peer: Party,
        destination: Party,
        traffic: Traffic,
        exemption: str,
    ) -> DirectionVerdict:
        source = subject if direction == "Egress" else peer
        ends = Ends(direction, subject, peer, source, destination, traffic)
        outcome = self._in_default_tier(ends, exemption)
        result = outcome.verdict
        before = self._in_tiers(self._before, ends)
        if before.isolated_by:
            return DirectionVerdict(direction, before.isolated_by, isolated_in=before.tier)
        result = structs.replace(result, admin=before.rule)
        if before.is_final or outcome.is_final:
            return result
        after = self._in_tiers(self._after, ends)
        if after.isolated_by:
            return structs.replace(result, isolated_by=after.isolated_by, isolated_in=after.tier)
        return structs.replace(result, baseline=after.rule)

    def _in_default_tier(self, ends: Ends, exemption: str) -> _DefaultOutcome:
        """Return the verdict of the default tier.

        The order of NetworkPolicies matters only beside policies of Calico, which know no
        exemptions.
        """
        isolating = self._isolating_policies(ends.subject.pod, ends.direction)
        others = self._calico.policies(ends, DEFAULT_TIER)
        if not others:
            of_cilium = self._cilium.outcome(ends)
            return self._united(isolating, of_cilium, ends, exemption)
        in_order = [
            (
                network_policy_place(policy.namespace, policy.name),
                _name(policy),
                next(self._allowing_rules([policy], ends), None),
            )
            for policy in isolating
        ]
        in_order += (
            (place, policy.title, self._calico.rule_of(policy, ends)) for place, policy in others
        )
        in_order.sort(key=lambda entry: entry[0])
        titles = tuple(title for _, title, _ in in_order)
        rule = next((rule for _, _, rule in in_order if rule is not None), None)
        if rule is not None and rule.action == "Accept":
            return _DefaultOutcome(DirectionVerdict(ends.direction, titles, (rule,)), True)
        verdict = DirectionVerdict(ends.direction, titles, ordered=rule)
        return _DefaultOutcome(verdict, rule is None or rule.action != "Pass")

    def _united(
        self,
        isolating: Sequence[NetworkPolicy],
        of_cilium: CiliumOutcome,
        ends: Ends,
        exemption: str,
    ) -> _DefaultOutcome:
        """Return the verdict of NetworkPolicies and Cilium's policies, whose rules are united.

        A rule that denies takes precedence. Cilium's policies know no exemptions: if they isolate
        a pod, NetworkPolicies apply to its connections with its own node, too.
        """
        names, rules = of_cilium.isolated_by, of_cilium.allowed_by
        if not exemption or of_cilium.isolated_by:
            names = (*map(_name, isolating), *names)
            rules = (*self._allowing_rules(isolating, ends), *rules)
        if of_cilium.denied_by is not None:
            denial = DirectionVerdict(ends.direction, names, ordered=of_cilium.denied_by)
            return _DefaultOutcome(denial, is_final=True)
        verdict = DirectionVerdict(ends.direction, names, rules)
        return _DefaultOutcome(verdict, bool(isolating or of_cilium.isolates or rules))

    @cached_property
    def _before(self) -> Sequence[_OtherTier]:
        """Tiers before the default one, in order."""
        tiers = [_OtherTier((1_000, "Admin"), "Admin"), *map(_of_calico, self._calico.tiers)]
        return sorted(tier for tier in tiers if tier.place < _DEFAULT_PLACE)

    @cached_property
    def _after(self) -> Sequence[_OtherTier]:
        """Tiers after the default one, in order."""
        baseline = _OtherTier((10_000_000, "Baseline"), "Baseline")
        tiers = [baseline, *map(_of_calico, self._calico.tiers)]
        return sorted(tier for tier in tiers if tier.place > _DEFAULT_PLACE)

    def _in_tiers(self, tiers: Sequence[_OtherTier], ends: Ends) -> _Outcome:
        """Return the outcome of tiers in order."""
        passed: RuleReference | None = None
        for tier in tiers:
            isolated_by: tuple[str, ...] = ()
            if isinstance(tier.tier, CalicoTier):
                rule, isolated_by = self._calico.first_rule(tier.tier, ends)
            else:
                rule = self._tiers.first_rule(
                    tier.tier,
                    ends.direction,
                    ends.subject,
                    ends.peer,
                    ends.destination,
                    ends.traffic,
                )
            if rule is None and isolated_by:
                return _Outcome(None, isolated_by, tier.place[1])
            if rule is not None and rule.action != "Pass":
                return _Outcome(rule)
            passed = passed or rule
        return _Outcome(passed)

    def _allowing_rules(
        self, policies: Iterable[NetworkPolicy], ends: Ends
    ) -> Iterator[RuleReference]:
        return (
            RuleReference(_name(policy), index)
            for policy in policies
            for index, (peers, ports) in enumerate(policy.spec.rules(ends.direction))
            if self._is_any_peer(policy, peers, ends.peer)
            and self._is_any_port(ports, ends.destination, ends.traffic)
        )

    def _isolating_policies(self, name: str, direction: Direction) -> Sequence[NetworkPolicy]:
        """Return the policies that isolate a pod in a direction; none for other parties."""
        pod = self._subjects.get(name)
        if pod is None:
            return ()
        key = (name, direction)
        if key not in self._isolating:
            self._isolating[key] = [
                policy
                for policy in self._policies.get(pod.namespace, ())
                if direction in policy.directions and policy.spec.pod_selector.matches(pod.labels)
            ]
        return self._isolating[key]

    def _is_any_peer(
        self, policy: NetworkPolicy, peers: Sequence[NetworkPolicyPeer], party: Party
    ) -> bool:
        return not peers or any(self._is_peer(policy, peer, party) for peer in peers)

    def _is_peer(self, policy: NetworkPolicy, peer: NetworkPolicyPeer, party: Party) -> bool:
        if peer.ip_block is not None:
            return is_in_block(party.address, peer.ip_block)
        pod = self._subjects.get(party.pod)
        if pod is None:
            return False
        if peer.namespace_selector is None:
            is_namespace = pod.namespace == policy.namespace
        else:
            is_namespace = pod.namespace in self._namespaces(peer.namespace_selector)
        return is_namespace and (peer.pod_selector is None or peer.pod_selector.matches(pod.labels))

    def _namespaces(self, selector: LabelSelector) -> AbstractSet[str]:
        """Return the names of the namespaces that a selector matches."""
        key = msgspec.json.encode(selector)
        if key not in self._selected:
            self._selected[key] = frozenset(
                namespace.name
                for namespace in self._cluster.all(Namespace)
                if selector.matches(namespace.labels)
            )
        return self._selected[key]

    def _is_any_port(
        self, ports: Sequence[NetworkPolicyPort], destination: Party, traffic: Traffic
    ) -> bool:
        return not ports or any(self._is_port(port, destination, traffic) for port in ports)

    def _is_port(self, entry: NetworkPolicyPort, destination: Party, traffic: Traffic) -> bool:
        if entry.protocol != traffic.protocol:
            return False
        match entry.port:
            case None:
                return True
            case int(first):
                return first <= traffic.port <= (entry.end_port or first)
            case str(name):
                return traffic.port in self._subjects.ports_named(
                    destination.pod, name, traffic.protocol
                )


def _name(policy: NetworkPolicy) -> str:
    return f"{policy.namespace}/{policy.name}"
