"""Rules of Cilium's policies, one connection at a time.

Rules that deny come before all rules that allow, those of NetworkPolicies as well. A rule without
peers, ports and types of ICMP messages means no connection. Peers are pods by their labels, nodes
and hosts outside: addresses and DNS names mean hosts outside alone.

Source: docs.cilium.io/en/stable/security/policy (1.18).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from msgspec import Struct

from kubenetlab.api.core import Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import Labels
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup, refers_to
from kubenetlab.api.policies.cilium_labels import (
    identity_labels,
    is_peer,
    is_subject,
    matches_host_name,
    reserved_peers,
)
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumCIDRRule,
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumIngressDenyRule,
    CiliumIngressRule,
    CiliumPolicy,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    CILIUM_KINDS,
    CONTROL_PLANE_LABEL,
    AnyCiliumRule,
    CiliumSection,
    has_peers,
    has_traffic,
    icmp_fields,
    icmp_type,
    numbers_of,
    ports,
    protocols_of,
    sections,
)
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import format_path
from kubenetlab.observe.policies.calico import Ends
from kubenetlab.observe.policies.model import Party, RuleReference, Traffic
from kubenetlab.observe.policies.subjects import Subjects, is_in

_ECHO_REQUEST: Final = {"IPv4": 8, "IPv6": 128}
"""IP version → type of the ICMP messages of probes."""


class CiliumOutcome(Struct, frozen=True):
    """Verdict of Cilium's policies about one end of a connection."""

    isolates: bool = False
    """True if no later stage decides."""
    isolated_by: tuple[str, ...] = ()
    """Titles of the policies that isolate the pod."""
    denied_by: RuleReference | None = None
    """First rule that denies the connection."""
    allowed_by: tuple[RuleReference, ...] = ()
    """Rules that allow the connection unless another one denies it."""


class CiliumRules:
    """Rules of Cilium's policies in one version of the store."""

    def __init__(self, cluster: Cluster, subjects: Subjects) -> None:
        self._cluster = cluster
        self._subjects = subjects
        self._of_pods: dict[
            tuple[str, Direction], Sequence[tuple[CiliumPolicy, CiliumSection]]
        ] = {}
        self._labels: dict[str, Labels] = {}

    def outcome(self, ends: Ends) -> CiliumOutcome:
        """Return what the policies that apply to one end say about a connection.

        Connections of a pod to itself are not subject to policies.
        """
        own = self._sections(ends.direction, ends.subject)
        if ends.subject.pod and ends.subject.pod == ends.peer.pod:
            return CiliumOutcome(any(section.isolates for _, section in own))
        return CiliumOutcome(
            any(section.isolates for _, section in own),
            tuple(dict.fromkeys(policy.title for policy, section in own if section.isolates)),
            next(self._matching(own, ends, is_deny=True), None),
            tuple(self._matching(own, ends, is_deny=False)),
        )

    def _matching(
        self, own: Iterable[tuple[CiliumPolicy, CiliumSection]], ends: Ends, *, is_deny: bool
    ) -> Iterator[RuleReference]:
        """Yield the rules that match a connection."""
        plain = ("spec", ends.direction.lower())
        for policy, section in own:
            if section.is_deny != is_deny:
                continue
            for index, rule in enumerate(section.rules):
                peers = has_peers(rule)
                if (
                    peers is not False
                    and (peers is None or self.is_peer(policy, rule, ends.subject, ends.peer))
                    and self._is_traffic(rule, ends.destination, ends.traffic)
                ):
                    yield RuleReference(
                        policy.full_name,
                        index,
                        policy.kind,
                        name="" if section.path == plain else format_path(section.path),
                        action="Deny" if is_deny else "Accept",
                        section=section.path,
                        suffix=section.suffix,
                    )

    def _sections(
        self, direction: Direction, subject: Party
    ) -> Sequence[tuple[CiliumPolicy, CiliumSection]]:
        """Return the lists of rules that apply to a pod; none for other parties."""
        pod = self._subjects.get(subject.pod)
        if pod is None or not self._all:
            return ()
        key = (pod.full_name, direction)
        if key not in self._of_pods:
            labels = self._labels_of(pod)
            self._of_pods[key] = [
                (policy, section)
                for policy, section in self._all
                if section.direction == direction
                and section.rule.endpoint_selector is not None
                and is_subject(section.rule.endpoint_selector, policy.namespace, labels)
            ]
        return self._of_pods[key]

    @cached_property
    def _all(self) -> Sequence[tuple[CiliumPolicy, CiliumSection]]:
        return [
            (policy, section)
            for kind in CILIUM_KINDS
            for policy in self._cluster.all(kind)
            for section in sections(policy)
        ]

    def _labels_of(self, pod: Pod) -> Labels:
        if pod.full_name not in self._labels:
            namespace = self._subjects.namespace_labels(pod)
            self._labels[pod.full_name] = identity_labels(pod, namespace)
        return self._labels[pod.full_name]

    def is_peer(
        self, policy: CiliumPolicy, rule: AnyCiliumRule, subject: Party, party: Party
    ) -> bool:
        """Return True if a party is a peer of a rule, as the pod of the policy sees it."""
        entities = self._entities(subject, party)
        if isinstance(rule, CiliumIngressRule | CiliumIngressDenyRule):
            endpoints, nodes = rule.from_endpoints, rule.from_nodes
            cidrs, cidr_rules, names = rule.from_cidr, rule.from_cidr_set, rule.from_entities
        else:
            endpoints, nodes = rule.to_endpoints, rule.to_nodes
            cidrs, cidr_rules, names = rule.to_cidr, rule.to_cidr_set, rule.to_entities
        if not entities.isdisjoint(names or ()):
            return True
        pod = self._subjects.get(party.pod)
        for selector in endpoints or ():
            reserved = reserved_peers(selector)
            if reserved is not None:
                if not entities.isdisjoint(reserved):
                    return True
            elif pod is not None and is_peer(selector, policy.namespace, self._labels_of(pod)):
                return True
        if pod is None and party.node:
            node = self._cluster.get(Node, "", party.node)
            return node is not None and any(each.matches(node.labels) for each in nodes or ())
        if pod is None and (
            any(_is_in_range(party.address, cidr) for cidr in cidrs or ())
            or any(self._is_in_entry(party.address, each) for each in cidr_rules or ())
        ):
            return True
        return isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule) and (
            self._is_behind_service(policy, rule, pod, party) or self._has_name(rule, pod, party)
        )

    def _is_in_entry(self, address: str, entry: CiliumCIDRRule) -> bool:
        """Return True if an address is in a range, or in one of a group, without exceptions."""
        cidrs = [entry.cidr] if entry.cidr else self._cidrs_of_groups(entry)
        return any(is_in(address, cidr) for cidr in cidrs) and not any(
            is_in(address, part) for part in entry.except_
        )

    def _cidrs_of_groups(self, entry: CiliumCIDRRule) -> list[str]:
        """Return the ranges of the groups to which an entry refers, none if they are missing."""
        return [
            cidr
            for group in self._cluster.all(CiliumCIDRGroup)
            if refers_to(entry, group.name, group.labels)
            for cidr in group.spec.external_cidrs
        ]

    def _entities(self, subject: Party, party: Party) -> frozenset[str]:
        """Return the entities to which a party belongs, as the pod of a policy sees it."""
        if self._subjects.get(party.pod) is not None:
            return frozenset(("all", "cluster"))
        if not party.node:
            version = 6 if ":" in party.address else 4
            return frozenset(("all", "world", f"world-ipv{version}"))
        names = {"all", "cluster", "host" if party.node == subject.node else "remote-node"}
        node = self._cluster.get(Node, "", party.node)
        if node is not None and CONTROL_PLANE_LABEL in node.labels:
            names.add("kube-apiserver")
        return frozenset(names)

    def _has_name(
        self, rule: CiliumEgressRule | CiliumEgressDenyRule, pod: Pod | None, party: Party
    ) -> bool:
        if pod is not None or not isinstance(rule, CiliumEgressRule):
            return False
        return any(
            matches_host_name(each.match_name, each.match_pattern, name)
            for name in self._names.get(party.address, ())
            for each in rule.to_fqdns or ()
        )

    @cached_property
    def _names(self) -> Mapping[str, Sequence[str]]:
        """Address of an external host → its names."""
        return self._cluster.config.names_of_hosts()

    def _is_behind_service(
        self,
        policy: CiliumPolicy,
        rule: CiliumEgressRule | CiliumEgressDenyRule,
        pod: Pod | None,
        party: Party,
    ) -> bool:
        """Return True for a pod that a Service selects, or an endpoint of one without selector."""
        for entry in rule.to_services or ():
            for service in self._services(policy, entry):
                if service.spec.selector:
                    if (
                        pod is not None
                        and pod.namespace == service.namespace
                        and all(
                            self._labels_of(pod).get(key) == value
                            for key, value in service.spec.selector.items()
                        )
                    ):
                        return True
                elif pod is None and party.address in self._endpoints.get(service.full_name, ()):
                    return True
        return False

    def _services(self, policy: CiliumPolicy, entry: CiliumService) -> Iterator[Service]:
        for service in self._cluster.all(Service):
            named, selected = entry.k8s_service, entry.k8s_service_selector
            if named is not None:
                home = named.namespace or policy.namespace
                if (service.namespace, service.name) == (home, named.service_name):
                    yield service
            elif (
                selected is not None
                and selected.namespace in ("", service.namespace)
                and selected.selector.matches(service.labels)
            ):
                yield service

    @cached_property
    def _endpoints(self) -> Mapping[str, frozenset[str]]:
        """`namespace/name` of a Service → the addresses in its EndpointSlices."""
        result: dict[str, set[str]] = {}
        for part in self._cluster.all(EndpointSlice):
            own = result.setdefault(f"{part.namespace}/{part.service_name}", set())
            own.update(address for endpoint in part.endpoints for address in endpoint.addresses)
        return {name: frozenset(addresses) for name, addresses in result.items()}

    def _is_traffic(self, rule: AnyCiliumRule, destination: Party, traffic: Traffic) -> bool:
        """Return True if the ports, or the types of ICMP messages, of a rule match."""
        if not has_traffic(rule):
            return True
        if traffic.protocol == "ICMP":
            family = "IPv6" if ":" in destination.address else "IPv4"
            return any(
                field.family == family and icmp_type(field) == _ECHO_REQUEST[family]
                for field in icmp_fields(rule)
            )
        for entry in ports(rule):
            if traffic.protocol not in protocols_of(entry):
                continue
            limits = numbers_of(entry)
            if limits is None:
                numbers = self._subjects.ports_named(
                    destination.pod, entry.port.lower(), traffic.protocol
                )
                if traffic.port in numbers:
                    return True
            elif limits[0] <= traffic.port <= limits[1]:
                return True
        return False


def _is_in_range(address: str, cidr: str) -> bool:
    """Return True if an address is in a range, or equal to an address without a prefix."""
    return is_in(address, cidr) if "/" in cidr else address == cidr
