"""Advice about Cilium's policies and CIDR groups that have no effect, or less than expected.

A rule is compared as it is written with the other rules of its policy and with those of policies
that apply to all of its pods. No advice is given about peers that a lab cannot have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from ipaddress import ip_network

from kubenetlab.api.core import Service
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup, refers_to
from kubenetlab.api.policies.cilium_labels import (
    CLUSTER_KEY,
    identity_labels,
    is_of_pods,
    is_peer,
    is_subject,
    keys_of,
    matches_host_name,
    peer_selector,
    subjects_selector,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumFQDNSelector,
    CiliumPolicy,
    CiliumPortDenyRule,
    CiliumPortRule,
    CiliumRule,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    CILIUM_KINDS,
    AnyCiliumRule,
    cidr_rules,
    numbers_of,
    protocols_of,
    sections,
    specifications,
)
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values.ip import is_part
from kubenetlab.datapath.cluster_modes import enforced_kinds_of
from kubenetlab.diagnostics.cilium_shadows import (
    PolicyList,
    PolicyLists,
    redundancy,
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
    unknown_host,
    unknown_port,
)
from kubenetlab.diagnostics.policy_shadows import single_values
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.errors import did_you_mean


def check_cilium_lints(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield advice about the policies of Cilium, and the groups, that a user created."""
    if not set(CILIUM_KINDS) <= set(enforced_kinds_of(cluster)):
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
            yield Diagnostic.of(group, NETWORK_SET_UNUSED, (), message)


def _check_policies(
    cluster: Cluster, templates: Templates, policies: Sequence[CiliumPolicy]
) -> Iterator[Diagnostic]:
    candidates = _Candidates(cluster, templates)
    lists = PolicyLists(policies)
    shadows = shadowing(policies, lists)
    for policy in policies:
        if not is_given(cluster, policy):
            continue
        for path, specification in specifications(policy):
            yield from _check_subject(policy, specification, path, candidates)
        for each in lists.of(policy):
            for index, rule in enumerate(each.section.rules):
                path = (*each.section.path, index)
                for peer_path, message in candidates.unmatched(policy, rule, path):
                    yield Diagnostic.of(policy, POLICY_PEER_UNMATCHED, peer_path, message)
                yield from _check_ports(each, rule, path, candidates)
                if message := redundancy(each, index, lists):
                    yield Diagnostic.of(policy, POLICY_RULE_REDUNDANT, path, message)
        if names := shadows.get(policy.title):
            message = f"it changes nothing beside other policies of the same pods: {listed(names)}"
            yield Diagnostic.of(
                policy, POLICY_SHADOWED, (), message, "delete it, or restrict the others"
            )


class _Candidates:
    """Pods, groups and Services that policies can select."""

    def __init__(self, cluster: Cluster, templates: Templates) -> None:
        self._cluster = cluster
        self._templates = templates

    @cached_property
    def _index(self) -> LabelIndex:
        of_namespaces = self._cluster.labels_of_namespaces
        return LabelIndex(
            (pod, identity_labels(pod, of_namespaces.get(pod.namespace, {})))
            for pod in possible_pods(self._cluster, self._templates)
        )

    def subjects(self, selector: LabelSelector, namespace: str) -> Iterator[PodLabels]:
        """Yield the labels of the pods that a selector of subjects matches."""
        found = self._index.having(single_values(subjects_selector(selector, namespace)))
        return (each for each in found if is_subject(selector, namespace, each.labels))

    def destinations(self, each: PolicyList, rule: AnyCiliumRule) -> list[PodLabels]:
        """Return the pods to which a rule is about connections; none if others are, too."""
        namespace = each.policy.namespace
        if each.section.direction == "Ingress":
            return list(self.subjects(each.section.subjects, namespace))
        if not isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
            return []
        return [
            found
            for selector in rule.to_endpoints or ()
            for found in self._index.having(single_values(peer_selector(selector, namespace)))
            if is_peer(selector, namespace, found.labels)
        ]

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
                reason = f"no pod and no workload has the labels {selector}"
                if not (selector.match_labels or selector.match_expressions):
                    reason = f"namespace {policy.namespace} has no pod"
                yield (*path, field, index), reason
        yield from self._unmatched_groups(rule, path)
        yield from self._ranges_of_pods(rule, path)
        for index, host in enumerate(_host_names(rule)):
            name = host.match_name or host.match_pattern
            matches = partial(matches_host_name, host.match_name, host.match_pattern)
            if reason := unknown_host(self._cluster, name, matches):
                yield (*path, "toFQDNs", index), reason
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
                    f"no CiliumCIDRGroup has the labels {selector}",
                )

    def _ranges_of_pods(self, rule: AnyCiliumRule, path: Path) -> Iterator[tuple[Path, str]]:
        """Yield (path, reason) of each range within that of the pods.

        Cilium knows pods by their labels alone, and compares no address of them.
        """
        if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
            field, peers, texts = "toCIDR", "toEndpoints", rule.to_cidr
        else:
            field, peers, texts = "fromCIDR", "fromEndpoints", rule.from_cidr
        set_field, entries = cidr_rules(rule)
        places: list[tuple[Path, str]] = [
            *(((field, index), text) for index, text in enumerate(texts or ())),
            *(((set_field, index), each.cidr) for index, each in enumerate(entries) if each.cidr),
        ]
        for place, text in places:
            range_ = ip_network(text, strict=False)
            for whole in self._cluster.config.networking.pod_networks:
                if range_.version == whole.version and is_part(range_, whole):
                    reason = (
                        f"{text} is in the range of the pods ({whole}), and ranges never match "
                        f"pods: select them by labels ({peers})"
                    )
                    yield (*path, *place), reason

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


def _host_names(rule: AnyCiliumRule) -> Sequence[CiliumFQDNSelector]:
    return rule.to_fqdns or () if isinstance(rule, CiliumEgressRule) else ()


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
    message = f"no pod and no workload{where} has the labels {selector}"
    if not (selector.match_labels or selector.match_expressions):
        message = f"there is no pod{where}"
    if found is not None:
        message = "it selects only pods with hostNetwork, to which policies do not apply"
    yield Diagnostic.of(policy, POLICY_SELECTS_NOTHING, (*path, "endpointSelector"), message)


def _check_ports(
    each: PolicyList, rule: AnyCiliumRule, path: Path, candidates: _Candidates
) -> Iterator[Diagnostic]:
    """Check that a destination of a rule has the named ports."""
    to_ports: Sequence[CiliumPortRule | CiliumPortDenyRule] = rule.to_ports
    for number, entry in enumerate(to_ports):
        for place, port in enumerate(entry.ports):
            if numbers_of(port) is not None:
                continue
            destinations = [pod.ports for pod in candidates.destinations(each, rule)]
            found = unknown_port(port.port.lower(), protocols_of(port), destinations)
            if found is not None:
                port_path = (*path, "toPorts", number, "ports", place, "port")
                yield Diagnostic.of(each.policy, POLICY_PORT_UNKNOWN, port_path, *found)
