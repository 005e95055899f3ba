"""Diagnostics of Cilium's policies: fields that the lab does not enforce.

The lab enforces rules about peers, ports and ICMP. It has no proxy for requests on layer 7, and it
knows the addresses behind DNS names, whereas Cilium learns them from the answers that pass its DNS
proxy. A policy of a kind that the policy engine does not know is reported as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from msgspec import structs

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.meta import matches_labels
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_labels import (
    RESERVED,
    identity_labels,
    is_inherited,
    is_subject,
    requirements,
    split_key,
    subjects_selector,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumIngressRule,
    CiliumPolicy,
    CiliumPortRule,
    CiliumRule,
)
from kubenetlab.api.policies.cilium_rules import (
    CILIUM_KINDS,
    AnyCiliumRule,
    CiliumSection,
    cidr_rules,
    has_traffic,
    icmp_fields,
    numbers_of,
    ports,
    protocols_of,
    sections,
    specifications,
)
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath.cluster_modes import enforced_kinds_of
from kubenetlab.datapath.policy.cilium_peers import CiliumObjects, cilium_objects, peers_of
from kubenetlab.datapath.policy.members import selected_pods
from kubenetlab.diagnostics.model import (
    NOT_ENFORCED,
    NOT_ENFORCED_ALTHOUGH,
    Diagnostic,
    Flow,
    Scope,
)
from kubenetlab.diagnostics.policy_shadows import single_values
from kubenetlab.diagnostics.templates import Templates

_AllowingRule = CiliumIngressRule | CiliumEgressRule
_CLUSTER = f"{NOT_ENFORCED_ALTHOUGH} in a cluster"


def check_cilium_policies(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each field of Cilium's policies that is not enforced."""
    enforced = enforced_kinds_of(cluster)
    policies = [policy for kind in CILIUM_KINDS if kind in enforced for policy in cluster.all(kind)]
    flows_of = _Flows(cluster)
    pods_with_dns_rules = {
        pod
        for policy in policies
        for section in sections(policy)
        if any(_has_dns_rules(rule) for rule in section.rules)
        for pod in _subjects(cluster, policy, section.rule)
    }
    for policy in policies:
        for path, rule in specifications(policy):
            if rule.node_selector is not None:
                yield Diagnostic.of(
                    policy,
                    NOT_ENFORCED,
                    (*path, "nodeSelector"),
                    f"{_CLUSTER} it decides about connections of nodes",
                    scope=Scope(True),
                )
        for section in sections(policy):
            pods = _subjects(cluster, policy, section.rule)
            scope = Scope(into=pods) if section.direction == "Ingress" else Scope(out_of=pods)
            for path, effect in _peer_fields(section):
                yield Diagnostic.of(policy, NOT_ENFORCED, path, f"{_CLUSTER} {effect}", scope=scope)
            for path, effect, narrowed in _narrowing_fields(section):
                flows = [flows_of.rule(policy, section.direction, narrowed, pods)]
                if path[-2:] == ("rules", "dns"):
                    flows += flows_of.names(policies, pods)
                message = f"{_CLUSTER} {effect}"
                own = Scope(flows=tuple(flows))
                yield Diagnostic.of(policy, NOT_ENFORCED, path, message, scope=own)
            for path, reason in _unknown_names(cluster, section):
                message = f"{NOT_ENFORCED_ALTHOUGH} a cluster allows it: {reason}"
                yield Diagnostic.of(policy, NOT_ENFORCED, path, message, scope=scope)
            unlearned = tuple(pod for pod in pods if pod not in pods_with_dns_rules)
            if unlearned:
                yield from _unlearned_names(policy, section, unlearned, flows_of)


def cilium_scope(cluster: Cluster, policy: CiliumPolicy) -> Scope:
    """Return the connections of the pods to which a policy applies."""
    into: dict[str, None] = {}
    out_of: dict[str, None] = {}
    for section in sections(policy):
        pods = into if section.direction == "Ingress" else out_of
        pods.update(dict.fromkeys(_subjects(cluster, policy, section.rule)))
    has_nodes = any(rule.node_selector is not None for _, rule in specifications(policy))
    return Scope(has_nodes, into=tuple(into), out_of=tuple(out_of))


def _subjects(cluster: Cluster, policy: CiliumPolicy, rule: CiliumRule) -> tuple[str, ...]:
    """Return `namespace/name` of the pods to which a specification of a policy applies."""
    if rule.endpoint_selector is None:
        return ()
    labels = cluster.labels_of_namespaces
    selector = subjects_selector(rule.endpoint_selector, policy.namespace)
    # Most pods lack a label of the selector, so that the rest of their identity does not matter.
    own = {key: value for key, value in single_values(selector) if not is_inherited(key)}
    return tuple(
        pod.full_name
        for pod in cluster.all(Pod)
        if policy.namespace in ("", pod.namespace)
        and matches_labels(own, pod.labels)
        and not pod.spec.host_network
        and is_subject(
            rule.endpoint_selector,
            policy.namespace,
            identity_labels(pod, labels.get(pod.namespace, {})),
        )
    )


def _peer_fields(section: CiliumSection) -> Iterator[tuple[Path, str]]:
    """Yield (path, effect in a cluster) of each field about peers that is not enforced.

    A rule may match more connections in a cluster, or fields of one rule concern other rules.
    """
    for index, rule in enumerate(section.rules):
        path: Path = (*section.path, index)
        for field, value in _requirements(rule).items():
            if value:
                yield (*path, field), "peers must have these labels, too (until Cilium 1.18)"
        for field, peers in rule.peer_fields.items():
            if field.endswith("Groups") and peers:
                yield (*path, field), "the addresses of the groups are peers"
        yield from _negative_selectors(rule, path)
        yield from _excluded_entities(rule, path)


def _narrowing_fields(section: CiliumSection) -> Iterator[tuple[Path, str, _AllowingRule]]:
    """Yield (path, effect, rule) of each field that is not enforced and restricts one rule.

    The rule has only the ports that the field concerns. Connections that it does not match are the
    same in a cluster.
    """
    for index, rule in enumerate(section.rules):
        path: Path = (*section.path, index)
        if isinstance(rule, CiliumIngressRule | CiliumEgressRule):
            if rule.authentication is not None and rule.authentication.mode != "disabled":
                yield (*path, "authentication"), "both ends must authenticate", rule
            for number, entry in enumerate(rule.to_ports):
                of_entry = structs.replace(rule, to_ports=(entry,))
                for field, effect in _layer_7(entry, (*path, "toPorts", number)):
                    yield field, effect, of_entry


def _requirements(rule: AnyCiliumRule) -> dict[str, object]:
    if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
        return {"toRequires": rule.to_requires}
    return {"fromRequires": rule.from_requires}


def _negative_selectors(rule: AnyCiliumRule, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the selectors of groups that peers without any label of groups meet as well.

    Cilium compares them with the labels of all peers.
    """
    field, entries = cidr_rules(rule)
    for index, entry in enumerate(entries):
        selector = entry.cidr_group_selector
        if selector is not None and selector.matches({}):
            effect = "peers that are in no CiliumCIDRGroup match as well, pods too"
            yield (*path, field, index, "cidrGroupSelector"), effect


def _excluded_entities(rule: AnyCiliumRule, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the selectors of peers by the entities that they are not."""
    if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
        field, selectors = "toEndpoints", rule.to_endpoints
    else:
        field, selectors = "fromEndpoints", rule.from_endpoints
    for index, selector in enumerate(selectors or ()):
        for requirement in requirements(selector):
            source, _ = split_key(requirement.key)
            if source == RESERVED and requirement.operator in ("NotIn", "DoesNotExist"):
                effect = f"peers without {requirement.key} match; the lab leaves the peer out"
                yield (*path, field, index), effect


def _layer_7(entry: CiliumPortRule, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the fields about requests. DNS rules that allow every name need no proxy here."""
    rules = entry.rules
    for protocol in rules.protocols if rules is not None else ():
        if protocol != "dns" or (rules is not None and not rules.allows_all_names):
            name = rules.l7proto if rules is not None and rules.l7proto else protocol.upper()
            effect = f"a proxy refuses other {name} requests; the lab allows all"
            yield (*path, "rules", protocol), effect
    if entry.terminating_tls is not None:
        yield (*path, "terminatingTLS"), "a proxy decrypts the connections"
    if entry.originating_tls is not None:
        yield (*path, "originatingTLS"), "a proxy encrypts the connections"
    if entry.server_names:
        yield (*path, "serverNames"), "only connections to these TLS servers are allowed"
    if entry.listener is not None:
        yield (*path, "listener"), "a listener of Envoy handles the connections"


def _has_dns_rules(rule: AnyCiliumRule) -> bool:
    return isinstance(rule, CiliumEgressRule) and any(
        entry.rules is not None and entry.rules.dns for entry in rule.to_ports
    )


def _unknown_names(cluster: Cluster, section: CiliumSection) -> Iterator[tuple[Path, str]]:
    """Yield (path, reason) of names with addresses that the lab does not know."""
    inside = f".{cluster.config.networking.dns_domain}"
    for index, rule in enumerate(section.rules):
        if not isinstance(rule, CiliumEgressRule):
            continue
        for number, selector in enumerate(rule.to_fqdns or ()):
            name = (selector.match_name or selector.match_pattern).lower().removesuffix(".")
            path = (*section.path, index, "toFQDNs", number)
            # Addresses of pods do not count as those of names, so names of Services never matter.
            if cluster.config.uplink and not name.endswith(inside):
                yield path, "only names of external hosts are resolved"


def _unlearned_names(
    policy: CiliumPolicy, section: CiliumSection, pods: tuple[str, ...], flows_of: _Flows
) -> Iterator[Diagnostic]:
    """Yield a diagnostic for names of which Cilium would not learn the addresses."""
    for index, rule in enumerate(section.rules):
        if isinstance(rule, CiliumEgressRule) and rule.to_fqdns:
            yield Diagnostic.of(
                policy,
                NOT_ENFORCED,
                (*section.path, index, "toFQDNs"),
                f"{_CLUSTER} no address is learned for the names: no rule with rules.dns sends "
                f"the DNS requests of {pods[0]} to Cilium's proxy",
                'add toPorts with port 53 and rules: {dns: [{matchPattern: "*"}]}',
                scope=Scope(flows=(flows_of.rule(policy, "Egress", rule, pods),)),
            )


class _Flows:
    """Connections that rules of Cilium's policies match, without the fields not enforced."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def rule(
        self,
        policy: CiliumPolicy,
        direction: Direction,
        rule: AnyCiliumRule,
        subjects: tuple[str, ...],
    ) -> Flow:
        """Return the connections of the subjects that a rule matches."""
        traffic = tuple(self._traffic(rule)) if has_traffic(rule) else None
        peers = list(peers_of(policy, rule, self._objects))
        if any(each.is_any for each in peers):
            return Flow(direction, subjects, ports=traffic)
        groups = [group for each in peers for group in each.groups]
        ranges = tuple(cidr for each in peers for cidr in each.ranges)
        members = (pod for group in groups for pod in selected_pods(self._cluster, group))
        pods = tuple(dict.fromkeys(pod.full_name for pod in members))
        return Flow(direction, subjects, pods, ranges, traffic)

    def names(self, policies: Sequence[CiliumPolicy], pods: tuple[str, ...]) -> Iterator[Flow]:
        """Yield the connections of pods to names, whose addresses Cilium learns from requests."""
        for policy in policies:
            for section in sections(policy):
                for rule in section.rules:
                    if isinstance(rule, CiliumEgressRule) and rule.to_fqdns:
                        subjects = set(_subjects(self._cluster, policy, section.rule))
                        common = tuple(pod for pod in pods if pod in subjects)
                        yield self.rule(policy, "Egress", rule, common)

    def _traffic(self, rule: AnyCiliumRule) -> Iterator[tuple[str, int, int]]:
        """Yield (protocol, first, last port) of a rule. A name means the ports of all pods."""
        if any(icmp_fields(rule)):
            yield "ICMP", 0, MAX_PORT
        for entry in rule.to_ports:
            if not entry.ports:
                yield from ((protocol, 0, MAX_PORT) for protocol in ("TCP", "UDP", "SCTP"))
        for each in ports(rule):
            limits = numbers_of(each)
            for protocol in protocols_of(each):
                if limits is not None:
                    yield protocol, *limits
                else:
                    numbers = self._numbers.get((each.port.lower(), protocol), ())
                    yield from ((protocol, number, number) for number in numbers)

    @cached_property
    def _objects(self) -> CiliumObjects:
        return cilium_objects(self._cluster)

    @cached_property
    def _numbers(self) -> Mapping[tuple[str, str], Sequence[int]]:
        """(name, protocol) → ports of containers that have the name."""
        numbers: dict[tuple[str, str], dict[int, None]] = {}
        for pod in self._cluster.all(Pod):
            for container in pod.spec.long_running_containers:
                for port in container.ports:
                    key = port.name.lower(), port.protocol
                    numbers.setdefault(key, {})[port.container_port] = None
        return {key: tuple(each) for key, each in numbers.items()}
