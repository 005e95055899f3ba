"""Rules of Calico's policies that no connection reaches, because former rules decide.

Conditions are compared as they are written, and not by the pods that they match now. The first rule
of a tier that matches a connection decides about it there, except for rules that only log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from math import inf

from msgspec import Struct

from kubenetlab.api.calico.policies import (
    DEFAULT_TIER,
    ENDS,
    CalicoEntityRule,
    CalicoPolicy,
    CalicoRule,
    Tier,
    port_range,
)
from kubenetlab.api.calico.selectors import (
    All,
    And,
    Comparison,
    Expression,
    Membership,
    labels_in,
    parse_selector,
)
from kubenetlab.api.policies.network_policy import DIRECTIONS, Direction
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.calico_labels import NAMESPACE, entity_selector, subject_selector
from kubenetlab.diagnostics.policy_pods import MAX_COMPARED, Pair, PairIndex

Place = tuple[bool, float, str, float, str, str, str]
"""Place of a policy among all: that of its tier, then its own. The default tier is last."""


class PolicyList(Struct, frozen=True):
    """The rules of a policy in one direction."""

    policy: CalicoPolicy
    direction: Direction
    place: Place
    subjects: Expression

    @property
    def rules(self) -> tuple[CalicoRule, ...]:
        return self.policy.spec.rules(self.direction)

    def title_of(self, index: int) -> str:
        """Return the title of a rule, such as `GlobalNetworkPolicy first spec.ingress[0]`."""
        return f"{self.policy.title} spec.{self.direction.lower()}[{index}]"


class Decision(Struct, frozen=True):
    """A rule that decides before another one."""

    of: PolicyList
    index: int


class PolicyLists:
    """Policies in order, by the labels that their subjects must have."""

    def __init__(self, cluster: Cluster, policies: Sequence[CalicoPolicy]) -> None:
        self._orders = {
            tier.name: inf if tier.spec.order is None else float(tier.spec.order)
            for tier in cluster.all(Tier)
        }
        self._of_policies: dict[str, list[PolicyList]] = {}
        self._index: PairIndex[PolicyList] = PairIndex()
        found = [each for policy in policies for each in self._lists(policy)]
        self._passing = {
            (each.policy.spec.tier, each.direction)
            for each in found
            if any(rule.action == "Pass" for rule in each.rules)
        }
        for each in sorted(found, key=lambda each: each.place):
            self._of_policies.setdefault(each.policy.title, []).append(each)
            self._index.add(required_pairs(each.subjects), each)

    def _lists(self, policy: CalicoPolicy) -> Iterator[PolicyList]:
        spec = policy.spec
        place = (
            spec.tier == DEFAULT_TIER,
            self._orders.get(spec.tier, inf),
            spec.tier,
            inf if spec.order is None else float(spec.order),
            policy.name,
            policy.namespace,
            policy.kind,
        )
        for direction in DIRECTIONS:
            if direction in policy.directions:
                yield PolicyList(policy, direction, place, subject_selector(policy))

    def of(self, policy: CalicoPolicy) -> Sequence[PolicyList]:
        """Return the lists of a policy, in the directions to which it applies."""
        return self._of_policies.get(policy.title, ())

    def before(self, each: PolicyList) -> list[PolicyList]:
        """Return the lists of former policies in a tier that apply to all pods of a list."""
        return [
            other for other in self._containing(each) if other.policy.spec.tier == _tier_of(each)
        ]

    def closing(self, each: PolicyList) -> Decision | None:
        """Return a rule of a former tier after which no connection of a list's pods goes on."""
        for other in self._containing(each):
            tier = _tier_of(other)
            if tier == _tier_of(each) or (tier, each.direction) in self._passing:
                continue
            for index, rule in enumerate(other.rules):
                if covers(rule, other.policy.namespace, CalicoRule("Allow"), ""):
                    return Decision(other, index)
        return None

    def _containing(self, each: PolicyList) -> Iterator[PolicyList]:
        """Yield former lists of the same direction whose subjects contain those of a list."""
        found = (
            other
            for other in self._index.matching(required_pairs(each.subjects))
            if other.direction == each.direction
            and other.place < each.place
            and implies(each.subjects, other.subjects)
        )
        return islice(found, MAX_COMPARED)


def _tier_of(each: PolicyList) -> str:
    return each.policy.spec.tier


def deciding(each: PolicyList, index: int, former: Sequence[PolicyList]) -> Decision | None:
    """Return a rule that decides about all connections of another rule before it.

    former: lists of former policies in the tier that apply to the same pods.
    """
    rule, namespace = each.rules[index], each.policy.namespace
    for other in former:
        for number, candidate in enumerate(other.rules):
            if covers(candidate, other.policy.namespace, rule, namespace):
                return Decision(other, number)
    for number, candidate in enumerate(each.rules[:index]):
        if covers(candidate, namespace, rule, namespace):
            return Decision(each, number)
    return None


def shadowing(lists: PolicyLists, policy: CalicoPolicy) -> list[Decision]:
    """Return the rules of other policies that decide before all rules of a policy.

    They are empty if the policy may have an effect. Policies without rules are left out: they
    isolate pods that do not exist yet.
    """
    own = lists.of(policy)
    result: list[Decision] = []
    if not any(each.rules for each in own):
        return []
    for each in own:
        if (closing := lists.closing(each)) is not None:
            result.append(closing)
            continue
        former = lists.before(each)
        if not former:
            return []  # connections that no rule matches would go on without the policy
        for index, rule in enumerate(each.rules):
            if rule.http is not None:
                return []
            decision = deciding(each, index, former)
            if decision is None or decision.of.policy is policy:
                return []
            result.append(decision)
        if not each.rules:
            result.append(Decision(former[0], 0))
    return result


def covers(rule: CalicoRule, namespace: str, other: CalicoRule, of_other: str) -> bool:
    """Return True if a rule decides about all connections that another one matches.

    namespace, of_other: namespaces of the policies; empty for those of all namespaces.
    """
    return (
        rule.action != "Log"
        and rule.http is None
        and rule.ip_version in (None, other.ip_version)
        and _has_protocol(rule, other)
        and _has_messages(rule, other)
        and all(_has_entity(rule.end(end), namespace, other.end(end), of_other) for end in ENDS)
    )


def _has_protocol(rule: CalicoRule, other: CalicoRule) -> bool:
    number, excluded = rule.protocol_number, rule.not_protocol_number
    if number not in (None, other.protocol_number):
        return False
    return excluded in (None, other.not_protocol_number) or (
        other.protocol_number not in (None, excluded)
    )


def _has_messages(rule: CalicoRule, other: CalicoRule) -> bool:
    """Return True if the conditions about ICMP are those of another rule, or none."""
    return (rule.icmp is None or rule.icmp == other.icmp) and (
        rule.not_icmp is None or rule.not_icmp == other.not_icmp
    )


def _has_entity(
    entity: CalicoEntityRule, namespace: str, other: CalicoEntityRule, of_other: str
) -> bool:
    """Return True if conditions about one end are met whenever others are."""
    return (
        _has_nets(entity, other)
        and _has_selector(entity, namespace, other, of_other)
        and _has_services(entity, namespace, other, of_other)
        and _has_ports(entity, other)
    )


def _has_nets(entity: CalicoEntityRule, other: CalicoEntityRule) -> bool:
    if entity.not_nets and set(entity.not_nets) != set(other.not_nets):
        return False
    return not entity.nets or (
        bool(other.nets)
        and all(any(_is_part(net, whole) for whole in entity.nets) for net in other.nets)
    )


def _is_part(net: str, whole: str) -> bool:
    inner, outer = ip.range_of(net), ip.range_of(whole)
    if inner is None or outer is None:
        return net == whole
    return ip.is_part(inner, outer)


def _has_selector(
    entity: CalicoEntityRule, namespace: str, other: CalicoEntityRule, of_other: str
) -> bool:
    if entity.not_selector:
        if not other.not_selector:
            return False
        if parse_selector(entity.not_selector) != parse_selector(other.not_selector):
            return False
    wide, narrow = entity_selector(entity, namespace), entity_selector(other, of_other)
    return wide is None or (narrow is not None and implies(narrow, wide))


def _has_services(
    entity: CalicoEntityRule, namespace: str, other: CalicoEntityRule, of_other: str
) -> bool:
    if entity.services is None:
        return True
    return other.services is not None and (
        entity.services.namespace or namespace,
        entity.services.name,
    ) == (other.services.namespace or of_other, other.services.name)


def _has_ports(entity: CalicoEntityRule, other: CalicoEntityRule) -> bool:
    has_ports = not entity.ports or (
        bool(other.ports)
        and all(any(_has_port(port, inner) for port in entity.ports) for inner in other.ports)
    )
    return has_ports and all(
        any(_has_port(outer, port) for outer in other.not_ports) for port in entity.not_ports
    )


def _has_port(port: int | str, other: int | str) -> bool:
    """Return True if a port, range or name contains another one."""
    limits, inner = port_range(port), port_range(other)
    if limits is None or inner is None:
        return port == other
    return limits[0] <= inner[0] and inner[1] <= limits[1]


def implies(narrow: Expression, wide: Expression) -> bool:
    """Return True if labels that meet one selector always meet another one."""
    terms = _terms(narrow)
    values = _values(terms)
    return all(term in terms or _follows(term, values) for term in _terms(wide))


def _follows(term: Expression, values: Mapping[str, AbstractSet[str]]) -> bool:
    """Return True if a term about one label holds for all values that the label can have."""
    match set(labels_in(term)):
        case labels if len(labels) == 1:
            (label,) = labels
            return label in values and all(term.matches({label: value}) for value in values[label])
    return False


def _terms(expression: Expression) -> list[Expression]:
    """Return expressions that all have to be met."""
    match expression:
        case All():
            return []
        case And(operands):
            return [term for operand in operands for term in _terms(operand)]
    return [expression]


def _values(terms: Sequence[Expression]) -> dict[str, AbstractSet[str]]:
    """Return the values that labels can have, where terms list them."""
    result: dict[str, AbstractSet[str]] = {}
    for term in terms:
        match term:
            case Comparison(label, "==", value):
                found = {value}
            case Membership(label, several, False):
                found = set(several)
            case _:
                continue
        result[label] = found & result[label] if label in result else found
    return result


def required_pairs(subjects: Expression) -> list[Pair]:
    """Return the labels that a selector requires, those of pods before the namespace."""
    pairs = [
        (label, next(iter(values)))
        for label, values in _values(_terms(subjects)).items()
        if len(values) == 1
    ]
    return sorted(pairs, key=lambda pair: pair[0] == NAMESPACE)
