"""Advice about Calico's policies and network sets that have no effect, or less than expected.

A rule is compared as it is written with former rules of its policy, and with those of former
policies that apply to all of its pods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from kubenetlab.api.calico.policies import (
    CALICO_POLICY_KINDS,
    DEFAULT_TIER,
    ENDS,
    PROTOCOLS,
    CalicoEntityRule,
    CalicoPolicy,
    CalicoRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkSet,
    Tier,
    port_range,
)
from kubenetlab.api.calico.selectors import All, Expression, labels_in, parse_selector
from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.meta import Labels
from kubenetlab.api.policies.network_policy import DIRECTIONS, Direction
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath.cluster_modes import enforced_kinds_of
from kubenetlab.datapath.policy.calico_labels import (
    OF_SERVICE_ACCOUNT,
    entity_selector,
    labels_of,
    namespace_labels,
    network_set_labels,
    subject_selector,
)
from kubenetlab.diagnostics.calico_shadows import (
    PolicyList,
    PolicyLists,
    deciding,
    required_pairs,
    shadowing,
)
from kubenetlab.diagnostics.model import (
    NETWORK_SET_UNUSED,
    POLICY_PEER_UNMATCHED,
    POLICY_PORT_UNKNOWN,
    POLICY_RULE_REDUNDANT,
    POLICY_SELECTS_NOTHING,
    POLICY_SHADOWED,
    Diagnostic,
)
from kubenetlab.diagnostics.policy_pods import (
    LabelIndex,
    PodLabels,
    is_given,
    listed,
    possible_pods,
    unknown_port,
)
from kubenetlab.diagnostics.templates import Templates

_ACCOUNT_NAME: Final = f"{OF_SERVICE_ACCOUNT}projectcalico.org/name"
"""Label of service accounts that the lab knows; others exist in a cluster alone."""


def check_calico_lints(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield advice about the policies of Calico, and the sets, that a user created."""
    if not set(CALICO_POLICY_KINDS) <= set(enforced_kinds_of(cluster)):
        return  # the policies are reported as not enforced
    policies = [policy for kind in CALICO_POLICY_KINDS for policy in cluster.all(kind)]
    items = _Items(cluster, templates)
    if policies:
        yield from _check_policies(cluster, policies, items)
    yield from _check_sets(cluster, policies, items)


def _check_policies(
    cluster: Cluster, policies: Sequence[CalicoPolicy], items: _Items
) -> Iterator[Diagnostic]:
    # Policies of all namespaces may be about host endpoints, which the lab lacks.
    has_hosts = any(kind.startswith("HostEndpoint.") for kind, *_ in cluster.given)
    tiers = {DEFAULT_TIER, *(tier.name for tier in cluster.all(Tier))}
    applying = [
        policy
        for policy in policies
        if policy.spec.tier in tiers
        and not (
            isinstance(policy, GlobalNetworkPolicy)
            and (policy.spec.pre_dnat or policy.spec.do_not_track)
        )
    ]
    lists = PolicyLists(cluster, applying)
    for policy in applying:
        if not is_given(cluster, policy):
            continue
        if policy.namespace or not has_hosts:
            yield from _check_subject(policy, items)
        yield from _check_types(policy)
        for direction in policy.directions:
            for index, rule in enumerate(policy.spec.rules(direction)):
                path = ("spec", direction.lower(), index)
                for peer_path, message in items.unmatched(policy, rule, path):
                    yield Diagnostic.of(policy, POLICY_PEER_UNMATCHED, peer_path, message)
                yield from _check_ports(policy, direction, rule, path, items)
        if decisions := shadowing(lists, policy):
            names = (decision.of.policy.title for decision in decisions)
            message = f"former policies decide about all its connections: {listed(names)}"
            hint = "delete it, or give it a lower order"
            yield Diagnostic.of(policy, POLICY_SHADOWED, (), message, hint)
            continue
        for each in lists.of(policy):
            yield from _check_rules(lists, each)


def _check_subject(policy: CalicoPolicy, items: _Items) -> Iterator[Diagnostic]:
    """Check that a policy selects a pod to which it can apply."""
    selector = subject_selector(policy)
    if _needs_accounts(labels_in(selector)):
        return
    pods = list(items.pods(selector))
    if any(each.is_isolated for each in pods):
        return
    where = f" in namespace {policy.namespace}" if policy.namespace else ""
    fields = [policy.spec.selector, policy.spec.service_account_selector]
    if isinstance(policy, GlobalNetworkPolicy):
        fields.append(policy.spec.namespace_selector)
    texts = [text for text in fields if text]
    message = f"no pod and no workload{where} meets {' and '.join(texts) or 'all()'}"
    if pods:
        message = "it selects only pods with hostNetwork, to which policies do not apply"
    yield Diagnostic.of(policy, POLICY_SELECTS_NOTHING, ("spec", "selector"), message)


def _needs_accounts(labels: Iterator[str]) -> bool:
    """Return True if a selector is about labels of service accounts, which the lab lacks."""
    return any(label.startswith(OF_SERVICE_ACCOUNT) and label != _ACCOUNT_NAME for label in labels)


def _check_types(policy: CalicoPolicy) -> Iterator[Diagnostic]:
    """Check that the policy applies to the directions for which it has rules."""
    for direction in DIRECTIONS:
        if policy.spec.rules(direction) and direction not in policy.directions:
            message = f"these rules have no effect: types does not contain {direction}"
            yield Diagnostic.of(policy, POLICY_RULE_REDUNDANT, ("spec", direction.lower()), message)


def _check_rules(lists: PolicyLists, each: PolicyList) -> Iterator[Diagnostic]:
    """Check that connections reach the rules of one direction."""
    policy, path = each.policy, ("spec", each.direction.lower())
    if each.rules and (closing := lists.closing(each)) is not None:
        message = f"no connection reaches these rules: {closing.of.title_of(closing.index)} decides"
        yield Diagnostic.of(policy, POLICY_RULE_REDUNDANT, path, message)
        return
    former = lists.before(each)
    for index in range(len(each.rules)):
        decision = deciding(each, index, former)
        if decision is not None:
            other = decision.of.title_of(decision.index).removeprefix(f"{policy.title} ")
            message = f"no connection reaches it: {other} decides about all that it matches"
            yield Diagnostic.of(policy, POLICY_RULE_REDUNDANT, (*path, index), message)


def _check_ports(
    policy: CalicoPolicy, direction: Direction, rule: CalicoRule, path: Path, items: _Items
) -> Iterator[Diagnostic]:
    """Check that a destination of a rule has the named ports. Named ports are those of pods."""
    destination = rule.destination
    names = {
        index: str(port) for index, port in enumerate(destination.ports) if port_range(port) is None
    }
    if not names or _needs_accounts(labels_in(subject_selector(policy))):
        return
    selector = entity_selector(destination, policy.namespace)
    if selector is not None and _needs_accounts(labels_in(selector)):
        return
    first = subject_selector(policy) if direction == "Ingress" else All()
    destinations = [
        each.ports
        for each in items.pods(first)
        if selector is None or selector.matches(each.labels)
    ]
    protocols = [
        protocol
        for protocol in ("TCP", "UDP", "SCTP")
        if rule.protocol_number in (None, PROTOCOLS[protocol])
    ]
    for index, name in names.items():
        if protocols and (found := unknown_port(name, protocols, destinations)) is not None:
            port_path = (*path, "destination", "ports", index)
            yield Diagnostic.of(policy, POLICY_PORT_UNKNOWN, port_path, *found)


class _Items:
    """Pods and network sets that selectors can match, by their labels."""

    def __init__(self, cluster: Cluster, templates: Templates) -> None:
        self._cluster = cluster
        self._templates = templates

    @cached_property
    def _of_namespaces(self) -> Mapping[str, Labels]:
        return self._cluster.index(Namespace, namespace_labels)

    @cached_property
    def _pods(self) -> LabelIndex:
        return LabelIndex(
            (pod, labels_of(pod, self._of_namespaces))
            for pod in possible_pods(self._cluster, self._templates)
        )

    def pods(self, selector: Expression) -> Iterator[PodLabels]:
        """Yield the labels of the pods that a selector matches."""
        found = self._pods.having(required_pairs(selector))
        return (each for each in found if selector.matches(each.labels))

    def labels_of_set(self, networks: NetworkSet | GlobalNetworkSet) -> Labels:
        """Return the labels of a network set, with those that it inherits."""
        if not networks.namespace:
            return networks.labels
        return network_set_labels(networks.labels, networks.namespace, self._of_namespaces)

    @cached_property
    def sets(self) -> Sequence[Labels]:
        """Labels of the network sets."""
        return [
            *map(self.labels_of_set, self._cluster.all(NetworkSet)),
            *map(self.labels_of_set, self._cluster.all(GlobalNetworkSet)),
        ]

    def unmatched(
        self, policy: CalicoPolicy, rule: CalicoRule, path: Path
    ) -> Iterator[tuple[Path, str]]:
        """Yield (path, reason) of each end of a rule at which nothing is."""
        for end in ENDS:
            entity = rule.end(end)
            if (service := entity.services) is not None:
                namespace = service.namespace or policy.namespace
                if self._cluster.get(Service, namespace, service.name) is None:
                    reason = f"there is no Service {namespace}/{service.name}"
                    yield (*path, end, "services"), reason
            elif not self._is_matched(entity, policy.namespace):
                where = f" in namespace {policy.namespace}" if policy.namespace else ""
                if entity.namespace_selector:
                    where = f" in namespaces that meet {entity.namespace_selector}"
                texts = f" meets {entity.selector}" if entity.selector else " matches"
                yield (*path, end), f"no pod, no workload and no network set{where}{texts}"

    def _is_matched(self, entity: CalicoEntityRule, namespace: str) -> bool:
        selector = entity_selector(entity, namespace)
        if selector is None or _needs_accounts(labels_in(selector)):
            return True
        return any(each.is_isolated for each in self.pods(selector)) or any(
            map(selector.matches, self.sets)
        )


def _check_sets(
    cluster: Cluster, policies: Sequence[CalicoPolicy], items: _Items
) -> Iterator[Diagnostic]:
    """Check that rules refer to each set of networks, also to exclude it."""
    entities = [
        (policy, rule.end(end))
        for policy in policies
        for rule in (*policy.spec.ingress, *policy.spec.egress)
        for end in ENDS
    ]
    selectors = [entity_selector(entity, policy.namespace) for policy, entity in entities]
    selectors += [
        parse_selector(entity.not_selector) for _, entity in entities if entity.not_selector
    ]
    sets: list[NetworkSet | GlobalNetworkSet] = [
        *cluster.all(NetworkSet),
        *cluster.all(GlobalNetworkSet),
    ]
    distinct = {str(each): each for each in selectors if each is not None}
    for networks in sets:
        labels = items.labels_of_set(networks)
        if is_given(cluster, networks) and not any(
            selector.matches(labels) for selector in distinct.values()
        ):
            message = "no rule of Calico's policies has a selector that matches the set"
            yield Diagnostic.of(networks, NETWORK_SET_UNUSED, (), message)
