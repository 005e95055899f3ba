"""Advice about Cilium's policies and CIDR groups that have no effect, or less than expected.

A rule is compared as it is written with the other rules of its policy and with those of policies
that apply to all of its pods. No advice is given about peers that a lab cannot have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice

from msgspec import Struct

from kubenetlab.api.core import Service
from kubenetlab.api.lab import Decisions
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup, refers_to
from kubenetlab.api.policies.cilium_labels import (
    CLUSTER_KEY,
    NAMESPACE_KEY,
    identity_labels,
    is_of_pods,
    is_peer,
    is_subject,
    keys_of,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumPolicy,
    CiliumRule,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    CILIUM_KINDS,
    AnyCiliumRule,
    CiliumSection,
    cidr_rules,
    sections,
    specifications,
)
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import format_path
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath import cluster_modes, modes
from kubenetlab.diagnostics.cilium_shadows import (
    covering_rule,
    covers,
    is_comparable,
    means_nothing,
    peer_selector,
    subjects_selector,
)
from kubenetlab.diagnostics.model import (
    NETWORK_SET_UNUSED,
    POLICY_PEER_UNMATCHED,
    POLICY_RULE_REDUNDANT,
    POLICY_SELECTS_NOTHING,
    POLICY_SHADOWED,
    Diagnostic,
)
from kubenetlab.diagnostics.policies import selector_text
from kubenetlab.diagnostics.policy_pods import (
    MAX_COMPARED,
    LabelIndex,
    Pair,
    PairIndex,
    PodLabels,
    is_given,
    labels_of_namespaces,
    listed,
    possible_pods,
)
from kubenetlab.diagnostics.policy_shadows import selects_all, single_values
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.errors import did_you_mean


class _List(Struct, frozen=True):
    """A list of rules of a policy."""

    policy: CiliumPolicy
    section: CiliumSection
    subjects: LabelSelector

    @property
    def title(self) -> str:
        return f"{self.policy.title} {format_path(self.section.path)}"


def check_cilium_lints(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield advice about the policies of Cilium, and the groups, that a user created."""
    decisions = cluster.get(Decisions, "", "decisions")
    networking = cluster.config.networking
    engine = modes.load("policy", *cluster_modes.policy_engine(networking, decisions))
    if not set(CILIUM_KINDS) <= set(cluster_modes.enforced_kinds(networking, engine)):
        return  # the policies are reported as not enforced
    policies = [policy for kind in CILIUM_KINDS for policy in cluster.all(kind)]
    if policies:
        yield from _check_policies(cluster, templates, policies)
    rules = [
        entry
        for policy in policies
        for section in sections(policy)
        for rule in section.rules
        for entry in cidr_rules(rule)[1]
    ]
    for group in cluster.all(CiliumCIDRGroup):
        is_used = any(refers_to(entry, group.name, group.labels) for entry in rules)
        if is_given(cluster, group) and not is_used:
            message = "no rule of Cilium's policies refers to the group"
            yield Diagnostic(NETWORK_SET_UNUSED, group.kind, "", group.name, (), message)


def _check_policies(
    cluster: Cluster, templates: Templates, policies: Sequence[CiliumPolicy]
) -> Iterator[Diagnostic]:
    candidates = _Candidates(cluster, templates)
    lists = _Lists(policies)
    shadows = _shadowing(policies, lists)
    for policy in policies:
        if not is_given(cluster, policy):
            continue
        for path, specification in specifications(policy):
            yield from _check_subject(policy, specification, path, candidates)
        for each in lists.of(policy):
            for index, rule in enumerate(each.section.rules):
                path = (*each.section.path, index)
                for peer_path, message in candidates.unmatched(policy, rule, path):
                    yield _advice(policy, POLICY_PEER_UNMATCHED, peer_path, message)
                if message := _redundancy(each, index, lists):
                    yield _advice(policy, POLICY_RULE_REDUNDANT, path, message)
        if names := shadows.get(policy.title):
            message = f"it changes nothing beside other policies of the same pods: {listed(names)}"
            yield _advice(policy, POLICY_SHADOWED, (), message, "delete it, or restrict the others")


class _Candidates:
    """Pods, groups and Services that policies can select."""

    def __init__(self, cluster: Cluster, templates: Templates) -> None:
        self._cluster = cluster
        self._templates = templates

    @cached_property
    def _index(self) -> LabelIndex:
        of_namespaces = labels_of_namespaces(self._cluster)
        return LabelIndex(
            (pod, identity_labels(pod, of_namespaces.get(pod.namespace, {})))
            for pod in possible_pods(self._cluster, self._templates)
        )

    def subjects(self, selector: LabelSelector, namespace: str) -> Iterator[PodLabels]:
        """Yield the labels of the pods that a selector of subjects matches."""
        found = self._index.having(single_values(subjects_selector(selector, namespace)))
        return (each for each in found if is_subject(selector, namespace, each.labels))

    def _has_peer(self, selector: LabelSelector, namespace: str) -> bool:
        """Return True if a selector of peers matches a pod."""
        found = self._index.having(single_values(peer_selector(selector, namespace)))
        return any(each.is_isolated and is_peer(selector, namespace, each.labels) for each in found)

    def unmatched(
        self, policy: CiliumPolicy, rule: AnyCiliumRule, path: Path
    ) -> Iterator[tuple[Path, str]]:
        """Yield (path, reason) of each peer of a rule that matches nothing."""
        services: Sequence[CiliumService] = ()
        if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
            field, endpoints, services = "toEndpoints", rule.to_endpoints, rule.to_services or ()
        else:
            field, endpoints = "fromEndpoints", rule.from_endpoints
        for index, selector in enumerate(endpoints or ()):
            if _can_be_known(selector) and not self._has_peer(selector, policy.namespace):
                reason = f"no pod and no workload has the labels {selector_text(selector)}"
                if not (selector.match_labels or selector.match_expressions):
                    reason = f"namespace {policy.namespace} has no pod"
                yield (*path, field, index), reason
        yield from self._unmatched_groups(rule, path)
        for index, service in enumerate(services):
            if reason := self._unmatched_service(policy, service):
                yield (*path, "toServices", index), reason

    def _unmatched_groups(self, rule: AnyCiliumRule, path: Path) -> Iterator[tuple[Path, str]]:
        groups = self._cluster.all(CiliumCIDRGroup)
        field, entries = cidr_rules(rule)
        for index, entry in enumerate(entries):
            if entry.cidr or any(refers_to(entry, each.name, each.labels) for each in groups):
                continue
            name, selector = entry.cidr_group_ref, entry.cidr_group_selector
            if name:
                guess = did_you_mean(name, [each.name for each in groups])
                yield (
                    (*path, field, index, "cidrGroupRef"),
                    f"there is no CiliumCIDRGroup {name}{guess}: the reference matches nothing",
                )
            elif selector is not None and not selector.matches({}):
                yield (
                    (*path, field, index, "cidrGroupSelector"),
                    f"no CiliumCIDRGroup has the labels {selector_text(selector)}",
                )

    def _unmatched_service(self, policy: CiliumPolicy, entry: CiliumService) -> str:
        """Return the reason why there is no Service; empty if there is one."""
        if (named := entry.k8s_service) is not None:
            namespace = named.namespace or policy.namespace
            if self._cluster.get(Service, namespace, named.service_name) is None:
                return f"there is no Service {namespace}/{named.service_name}"
        elif (selected := entry.k8s_service_selector) is not None and not any(
            selected.namespace in ("", service.namespace)
            and selected.selector.matches(service.labels)
            for service in self._cluster.all(Service)
        ):
            return "no Service has these labels"
        return ""


def _can_be_known(selector: LabelSelector) -> bool:
    """Return True if a selector is about labels that only pods of the lab have."""
    return all(is_of_pods(source) and name != CLUSTER_KEY for source, name in keys_of(selector))


def _check_subject(
    policy: CiliumPolicy, rule: CiliumRule, path: Path, candidates: _Candidates
) -> Iterator[Diagnostic]:
    """Check that a specification selects a pod to which it can apply."""
    selector = rule.endpoint_selector
    if selector is None or not _can_be_known(selector):
        return
    matching = candidates.subjects(selector, policy.namespace)
    found = next(matching, None)
    if found is not None and (found.is_isolated or any(each.is_isolated for each in matching)):
        return
    where = f" in namespace {policy.namespace}" if policy.namespace else ""
    message = f"no pod and no workload{where} has the labels {selector_text(selector)}"
    if not (selector.match_labels or selector.match_expressions):
        message = f"there is no pod{where}"
    if found is not None:
        message = "it selects only pods with hostNetwork, to which policies do not apply"
    yield _advice(policy, POLICY_SELECTS_NOTHING, (*path, "endpointSelector"), message)


class _Lists:
    """Lists of rules of all policies, by the labels that their subjects must have."""

    def __init__(self, policies: Sequence[CiliumPolicy]) -> None:
        self._of_policies: dict[str, list[_List]] = {}
        self._index: PairIndex[_List] = PairIndex()
        for policy in policies:
            own = self._of_policies.setdefault(policy.title, [])
            for section in sections(policy):
                subjects = subjects_selector(section.subjects, policy.namespace)
                own.append(_List(policy, section, subjects))
                self._index.add(_pairs(subjects), own[-1])

    def of(self, policy: CiliumPolicy) -> Sequence[_List]:
        """Return the lists of a policy."""
        return self._of_policies[policy.title]

    def containing(self, each: _List, is_wanted: Callable[[_List], bool]) -> Iterator[_List]:
        """Yield lists of the same direction whose subjects contain those of a list."""
        found = (
            other
            for other in self._index.matching(_pairs(each.subjects))
            if other.section.direction == each.section.direction
            and is_wanted(other)
            and selects_all(other.subjects, each.subjects)
        )
        return islice(found, MAX_COMPARED)


def _pairs(subjects: LabelSelector) -> list[Pair]:
    """Return the labels that a selector requires, those of pods before the namespace."""
    return sorted(single_values(subjects), key=lambda pair: pair[0] == NAMESPACE_KEY)


def _redundancy(each: _List, index: int, lists: _Lists) -> str:
    """Return the reason why a rule has no effect; empty if it may have one."""
    section, rule = each.section, each.section.rules[index]
    if means_nothing(rule) or not is_comparable(rule):
        return ""
    number = covering_rule(section.rules, each.policy.namespace, index)
    if number is not None:
        other_rule = format_path((*section.path, number))
        if section.is_deny:
            return f"it denies nothing that {other_rule} does not deny"
        return f"it allows nothing that {other_rule} does not allow"
    if not section.is_deny:
        for other in lists.containing(each, lambda other: other.section.is_deny):
            number = _number_of(other, each.policy, rule)
            if number is not None:
                where = format_path((*other.section.path, number))
                if other.policy is not each.policy:
                    where = f"{other.policy.title} {where}"
                return f"it has no effect: {where} denies all that it allows"
    return ""


def _number_of(each: _List, policy: CiliumPolicy, rule: AnyCiliumRule) -> int | None:
    """Return the number of the first rule of a list that contains a rule of a policy."""
    return next(
        (
            number
            for number, candidate in enumerate(each.section.rules)
            if covers(candidate, each.policy.namespace, rule, policy.namespace)
        ),
        None,
    )


def _shadowing(policies: Sequence[CiliumPolicy], lists: _Lists) -> dict[str, list[str]]:
    """Return titles of policies without effect, each with the titles of those that replace it.

    Of two equal policies, the later one is redundant. Policies without rules are left out: they
    isolate pods that do not exist yet.
    """
    result: dict[str, list[str]] = {}
    for policy in reversed(policies):
        own = lists.of(policy)
        has_nodes = any(rule.node_selector is not None for _, rule in specifications(policy))
        if has_nodes or not any(each.section.rules for each in own):
            continue
        replacing: list[str] = []
        for each in own:
            found = _replacing(each, lists, result)
            if found is None:
                break
            replacing += found
        else:
            if replacing:
                result[policy.title] = list(dict.fromkeys(replacing))
    return result


def _replacing(each: _List, lists: _Lists, redundant: dict[str, list[str]]) -> list[str] | None:
    """Return titles of policies that make a list redundant; None if it may have an effect."""

    def is_other(other: _List) -> bool:
        return other.policy is not each.policy and other.policy.title not in redundant

    section = each.section
    result: list[str] = []
    if section.isolates:
        isolating = lists.containing(each, lambda other: is_other(other) and other.section.isolates)
        if (first := next(isolating, None)) is None:
            return None
        result.append(first.policy.title)
    candidates: list[_List] | None = None
    for rule in section.rules:
        if means_nothing(rule):
            continue
        if candidates is None:
            # A rule that denies makes one that allows redundant as well.
            candidates = list(
                lists.containing(
                    each,
                    lambda other: is_other(other) and other.section.is_deny >= section.is_deny,
                )
            )
        other = next(
            (other for other in candidates if _number_of(other, each.policy, rule) is not None),
            None,
        )
        if other is None:
            return None
        result.append(other.policy.title)
    return result


def _advice(policy: CiliumPolicy, code: str, path: Path, message: str, *hints: str) -> Diagnostic:
    return Diagnostic(code, policy.kind, policy.namespace, policy.name, path, message, hints)
