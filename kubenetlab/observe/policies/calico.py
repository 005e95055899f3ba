"""Rules of Calico's policies, one connection at a time.

The policies of a tier are evaluated in order; NetworkPolicies have the order 1000 in the default
tier. A selector in a rule matches pods, and the network sets that have the address of the party.

Source: docs.tigera.io/calico/3.30: network policy, global network policy, network set, tier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import inf
from typing import Final

from msgspec import Struct

from kubenetlab.api.calico.policies import (
    CALICO_POLICY_KINDS,
    DEFAULT_TIER,
    PROTOCOLS,
    CalicoEntityRule,
    CalicoICMP,
    CalicoPolicy,
    CalicoRule,
    End,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkSet,
    Tier,
    port_range,
)
from kubenetlab.api.calico.selectors import (
    All,
    And,
    Expression,
    Global,
    Not,
    Or,
    parse_selector,
)
from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import Labels
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.observe.policies.model import Party, RuleReference, Traffic
from kubenetlab.observe.policies.subjects import Subjects, is_in

NETWORK_POLICY_ORDER: Final = 1000.0
"""Order of NetworkPolicies in the default tier."""
CLIENT_PORT: Final = 50000
"""Port of clients, which no rule is expected to tell from others that the kernel chooses."""
_ECHO_REQUEST: Final = {4: 8, 6: 128}
"""IP version → type of the ICMP messages of probes; their code is 0."""

Place = tuple[float, str, str, str]
"""Order of a policy in its tier, its name, namespace and kind."""


class CalicoTier(Struct, frozen=True, order=True):
    """A tier of Calico's policies."""

    order: float
    name: str
    denies: bool
    """True if connections that no rule matches are denied."""


class Ends(Struct, frozen=True):
    """A connection as the policies of one of its ends see it."""

    direction: Direction
    subject: Party
    """The end to which the policies apply."""
    peer: Party
    source: Party
    destination: Party
    traffic: Traffic


class Item(Struct, frozen=True):
    """A pod or network set that has the address of a party."""

    labels: Labels
    namespace: str
    """Empty for a GlobalNetworkSet."""
    account: str = ""
    """Name of the service account; empty for network sets."""


class CalicoRules:
    """Rules of Calico's policies in one version of the store."""

    def __init__(self, cluster: Cluster, subjects: Subjects) -> None:
        self._cluster = cluster
        self._subjects = subjects
        self._of_pods: dict[tuple[str, Direction, str], Sequence[tuple[Place, CalicoPolicy]]] = {}
        self._items: dict[Party, Sequence[Item]] = {}

    @cached_property
    def tiers(self) -> Sequence[CalicoTier]:
        """Tiers in order, without the default one."""
        return sorted(
            CalicoTier(
                inf if tier.spec.order is None else tier.spec.order,
                tier.name,
                tier.spec.default_action == "Deny",
            )
            for tier in self._cluster.all(Tier)
            if tier.name != DEFAULT_TIER
        )

    def first_rule(
        self, tier: CalicoTier, ends: Ends
    ) -> tuple[RuleReference | None, tuple[str, ...]]:
        """Return the first rule of a tier that matches a connection.

        Return also the policies of the tier that deny what no rule matches.
        """
        policies = self.policies(ends, tier.name)
        titles = tuple(policy.title for _, policy in policies) if tier.denies else ()
        rules = (self.rule_of(policy, ends) for _, policy in policies)
        return next((rule for rule in rules if rule is not None), None), titles

    def policies(self, ends: Ends, tier: str) -> Sequence[tuple[Place, CalicoPolicy]]:
        """Return the policies of a tier that apply to the subject, in order."""
        pod = self._subjects.get(ends.subject.pod)
        if pod is None or not self._all:
            return ()
        key = (pod.full_name, ends.direction, tier)
        if key not in self._of_pods:
            self._of_pods[key] = sorted(
                (
                    (_place(policy), policy)
                    for policy in self._all
                    if policy.spec.tier == tier
                    and ends.direction in policy.directions
                    and self.is_subject(policy, pod)
                ),
                key=lambda entry: entry[0],
            )
        return self._of_pods[key]

    def rule_of(self, policy: CalicoPolicy, ends: Ends) -> RuleReference | None:
        """Return the first rule of a policy that matches and does more than log."""
        for index, rule in enumerate(policy.spec.rules(ends.direction)):
            if rule.action != "Log" and self._matches(rule, policy.namespace, ends):
                return RuleReference(
                    policy.full_name,
                    index,
                    policy.kind,
                    action="Accept" if rule.action == "Allow" else rule.action,
                    tier="" if policy.spec.tier == DEFAULT_TIER else policy.spec.tier,
                )
        return None

    @cached_property
    def _all(self) -> Sequence[CalicoPolicy]:
        """Policies that can apply to pods: those for host endpoints alone cannot."""
        return [
            policy
            for kind in CALICO_POLICY_KINDS
            for policy in self._cluster.all(kind)
            if not isinstance(policy, GlobalNetworkPolicy)
            or not (policy.spec.pre_dnat or policy.spec.do_not_track)
        ]

    def is_subject(self, policy: CalicoPolicy, pod: Pod) -> bool:
        """Return True if a policy applies to a pod."""
        item, spec = self.item_of(pod), policy.spec
        if policy.namespace and policy.namespace != pod.namespace:
            return False
        if isinstance(policy, GlobalNetworkPolicy) and not self._is_namespace(
            policy.spec.namespace_selector, item
        ):
            return False
        return self._is_account(spec.service_account_selector, item) and parse_selector(
            spec.selector
        ).matches(item.labels)

    def _matches(self, rule: CalicoRule, namespace: str, ends: Ends) -> bool:
        """Return True if a connection meets all conditions of a rule."""
        version = ip.version_of(ends.destination.address)
        number = PROTOCOLS[ends.traffic.protocol]
        if ends.traffic.protocol == "ICMP" and version == 6:
            number = PROTOCOLS["ICMPv6"]
        is_message = (
            rule.icmp is None or rule.icmp.type is None or _is_message(rule.icmp, number, version),
            not _is_message(rule.not_icmp, number, version),
        )
        return (
            rule.http is None
            and rule.ip_version in (None, version)
            and rule.protocol_number in (None, number)
            and rule.not_protocol_number != number
            and all(is_message)
            and self._is_end("source", rule.source, namespace, ends.source, ends.traffic)
            and self._is_end(
                "destination", rule.destination, namespace, ends.destination, ends.traffic
            )
        )

    def _is_end(
        self, end: End, entity: CalicoEntityRule, namespace: str, party: Party, traffic: Traffic
    ) -> bool:
        return (
            _is_in_nets(entity, party.address)
            and self._is_selected(entity, namespace, party)
            and self._is_endpoint(end, entity, namespace, party, traffic)
            and self._has_port(end, entity, party, traffic)
        )

    def is_peer(self, entity: CalicoEntityRule, namespace: str, party: Party) -> bool:
        """Return True if a party is one that an end of a rule means, whatever its ports."""
        return _is_in_nets(entity, party.address) and (
            self._is_selected(entity, namespace, party)
            and self._is_endpoint("source", entity, namespace, party, Traffic("TCP"))
        )

    def _is_selected(self, entity: CalicoEntityRule, namespace: str, party: Party) -> bool:
        items = self._items_of(party)
        excluded = parse_selector(entity.not_selector)
        if entity.not_selector and any(excluded.matches(item.labels) for item in items):
            return False
        accounts = entity.service_accounts
        has_accounts = accounts is not None and bool(accounts.names or accounts.selector)
        is_own_namespace = bool(namespace) and not entity.namespace_selector
        has_selector = bool(entity.selector or has_accounts)
        if not (
            has_selector or entity.namespace_selector or (is_own_namespace and entity.not_selector)
        ):
            return True
        selector = parse_selector(entity.selector)
        return any(
            (not is_own_namespace or item.namespace == namespace)
            and self._is_namespace(entity.namespace_selector, item)
            and (
                accounts is None
                or (
                    (not accounts.names or item.account in accounts.names)
                    and self._is_account(accounts.selector, item)
                )
            )
            and selector.matches(item.labels)
            for item in items
        )

    def _is_namespace(self, selector: str, item: Item) -> bool:
        """Return True if the namespace of an item meets a selector; an empty one is always met."""
        labels = self._namespace_labels(item.namespace) if item.namespace else {}
        return not selector or _is_met(parse_selector(selector), labels, bool(item.namespace))

    def _is_account(self, selector: str, item: Item) -> bool:
        """Return True if the service account of an item meets a selector.

        The lab has no service accounts, so their only label is their name.
        """
        labels = {"projectcalico.org/name": item.account} if item.account else {}
        return not selector or _is_met(parse_selector(selector), labels, bool(item.account))

    def _items_of(self, party: Party) -> Sequence[Item]:
        if party not in self._items:
            pod = self._subjects.get(party.pod)
            self._items[party] = [
                *([self.item_of(pod)] if pod is not None else ()),
                *(
                    self.item_of(networks)
                    for networks in self._sets
                    if any(is_in(party.address, net) for net in networks.spec.nets)
                ),
            ]
        return self._items[party]

    @cached_property
    def _sets(self) -> Sequence[NetworkSet | GlobalNetworkSet]:
        return [*self._cluster.all(NetworkSet), *self._cluster.all(GlobalNetworkSet)]

    def item_of(self, obj: Pod | NetworkSet | GlobalNetworkSet) -> Item:
        """Return a pod or network set as selectors see it."""
        labels = {**obj.labels}
        if obj.namespace:
            labels["projectcalico.org/namespace"] = obj.namespace
            for key, value in self._namespace_labels(obj.namespace).items():
                labels[f"pcns.{key}"] = value
        account = ""
        if isinstance(obj, Pod):
            account = obj.spec.service_account_name or obj.spec.service_account or "default"
            labels["projectcalico.org/orchestrator"] = "k8s"
            labels["projectcalico.org/serviceaccount"] = account
            labels["pcsa.projectcalico.org/name"] = account
        return Item(labels, obj.namespace, account)

    def _namespace_labels(self, name: str) -> Mapping[str, str]:
        namespace = self._cluster.get(Namespace, "", name)
        own = namespace.labels if namespace is not None else {}
        return {"projectcalico.org/name": name, **own}

    def _is_endpoint(
        self, end: End, entity: CalicoEntityRule, namespace: str, party: Party, traffic: Traffic
    ) -> bool:
        """Return True if a party is an endpoint of the rule's Service."""
        if entity.services is None:
            return True
        service = entity.services.namespace or namespace, entity.services.name
        endpoints = self._endpoints(*service)
        if end == "source":
            return any(party.address == address for address, _, _ in endpoints)
        return (party.address, traffic.port, traffic.protocol) in endpoints

    def _endpoints(self, namespace: str, name: str) -> set[tuple[str, int, str]]:
        return {
            (address, port.port, port.protocol)
            for slice_ in self._cluster.slices_by_service.get((namespace, name), ())
            for endpoint in slice_.endpoints
            for address in endpoint.addresses
            for port in slice_.ports
            if port.port is not None
        }

    def _has_port(self, end: End, entity: CalicoEntityRule, party: Party, traffic: Traffic) -> bool:
        number = traffic.port if end == "destination" else CLIENT_PORT

        def is_one_of(ports: Sequence[int | str]) -> bool:
            return any(self._is_port(port, number, party, traffic) for port in ports)

        return (not entity.ports or is_one_of(entity.ports)) and not is_one_of(entity.not_ports)

    def _is_port(self, port: int | str, number: int, party: Party, traffic: Traffic) -> bool:
        limits = port_range(port)
        if limits is not None:
            return limits[0] <= number <= limits[1]
        return traffic.protocol != "ICMP" and number in self._subjects.ports_named(
            party.pod, str(port), traffic.protocol
        )


def _place(policy: CalicoPolicy) -> Place:
    order = inf if policy.spec.order is None else policy.spec.order
    return order, policy.name, policy.namespace, policy.kind


def network_policy_place(namespace: str, name: str) -> Place:
    """Return the place of a NetworkPolicy in the default tier."""
    return NETWORK_POLICY_ORDER, f"knp.default.{name}", namespace, "NetworkPolicy"


def _is_in_nets(entity: CalicoEntityRule, address: str) -> bool:
    """Return True if an address is in the ranges of a rule, and in none of the negated ones.

    A list without any range of its IP version has no address of it, even if it is negated.
    """
    for nets, is_negated in ((entity.nets, False), (entity.not_nets, True)):
        if not nets:
            continue
        if all(ip.version_of(net) != ip.version_of(address) for net in nets):
            return False
        if any(is_in(address, net) for net in nets) == is_negated:
            return False
    return True


def _is_message(icmp: CalicoICMP | None, protocol: int, version: int) -> bool:
    """Return True if the message of a probe is one that a rule names."""
    if icmp is None or icmp.type is None:
        return False
    is_icmp = protocol in (PROTOCOLS["ICMP"], PROTOCOLS["ICMPv6"])
    return is_icmp and icmp.type == _ECHO_REQUEST[version] and icmp.code in (None, 0)


def _is_met(selector: Expression, labels: Labels, exists: bool) -> bool:
    """Return True if the labels of an owner meet a selector of owners.

    exists: False for what has no owner: no namespace, or no service account.
    """
    match selector:
        case All():
            return exists
        case Global():
            return not exists
        case Not(operand):
            return not _is_met(operand, labels, exists)
        case And(operands):
            return all(_is_met(each, labels, exists) for each in operands)
        case Or(operands):
            return any(_is_met(each, labels, exists) for each in operands)
    return selector.matches(labels)


def calico_selectors(policies: Sequence[CalicoPolicy]) -> Iterator[str]:
    """Yield the selectors of pods and network sets in policies."""
    for policy in policies:
        yield policy.spec.selector
        for rule in (*policy.spec.ingress, *policy.spec.egress):
            for entity in (rule.source, rule.destination):
                yield entity.selector
                yield entity.not_selector
