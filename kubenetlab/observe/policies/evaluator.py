"""Evaluator of NetworkPolicies: verdicts about connections, and the rules behind them.

It follows the definition of the API, connection by connection, and shares no code with the policy
engines, whose rules in the kernel it checks.

A connection is allowed if its source may make it and its destination accepts it. A pod that no
policy selects for a direction is free in it. For a pod that some policies select, each of them can
allow a connection; none can forbid it. A pod always reaches itself, and a node always reaches its
own pods and is reached by them. Pods with hostNetwork are part of their node.

Source: kubernetes.io/docs/concepts/services-networking/network-policies (1.33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from ipaddress import ip_address
from typing import Literal

import msgspec
from msgspec import Struct

from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import (
    Direction,
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip


class Party(Struct, frozen=True):
    """One end of a connection: a pod, a node, or a host outside the cluster."""

    address: str
    """Address as the policies see it: after the translation of Services."""
    pod: str = ""
    """`namespace/name`; empty for nodes and other hosts."""
    node: str = ""
    """Name of the node, or of the pod's node; empty for other hosts."""


class Traffic(Struct, frozen=True):
    """Packets that open a connection."""

    protocol: Literal["TCP", "UDP", "SCTP", "ICMP"]
    port: int = 0
    """Port of the destination, after the translation of Services; 0 for ICMP."""


class RuleReference(Struct, frozen=True):
    """Rule of a policy."""

    policy: str
    """`namespace/name` of the policy."""
    index: int
    """Number of the rule in the list `ingress` or `egress`, from 0."""


class DirectionVerdict(Struct, frozen=True):
    """Verdict about one end of a connection."""

    direction: Direction
    """Egress for the source, Ingress for the destination."""
    isolated_by: tuple[str, ...] = ()
    """`namespace/name` of the policies that isolate the pod in this direction."""
    allowed_by: tuple[RuleReference, ...] = ()
    """Rules that allow the connection nevertheless."""

    @property
    def is_allowed(self) -> bool:
        return not self.isolated_by or bool(self.allowed_by)


class Verdict(Struct, frozen=True):
    """Verdict about a connection."""

    egress: DirectionVerdict
    ingress: DirectionVerdict
    exemption: str = ""
    """Reason why policies do not apply; empty if they do."""

    @property
    def is_allowed(self) -> bool:
        return bool(self.exemption) or (self.egress.is_allowed and self.ingress.is_allowed)


class Evaluator:
    """The policies of one version of the store."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._selected: dict[bytes, AbstractSet[str]] = {}
        """Namespace selector, encoded → names of the namespaces that it matches."""
        self._isolating: dict[tuple[str, Direction], Sequence[NetworkPolicy]] = {}

    def verdict(self, source: Party, destination: Party, traffic: Traffic) -> Verdict:
        """Return the verdict about a connection."""
        if exemption := self._exemption(source, destination):
            return Verdict(DirectionVerdict("Egress"), DirectionVerdict("Ingress"), exemption)
        return Verdict(
            self._one_end("Egress", source, destination, destination, traffic),
            self._one_end("Ingress", destination, source, destination, traffic),
        )

    def _exemption(self, source: Party, destination: Party) -> str:
        """Return the reason why a connection is always allowed, or an empty text."""
        if source.pod and source.pod == destination.pod:
            return "a pod always reaches itself"
        if source.node and source.node == destination.node:
            if not self._is_subject(source.pod):
                return "a node always reaches its own pods"
            if not self._is_subject(destination.pod):
                return "a pod always reaches its own node"
        return ""

    def _is_subject(self, name: str) -> bool:
        return name in self._subjects

    @cached_property
    def _subjects(self) -> dict[str, Pod]:
        """Pods with a network of their own, by `namespace/name`."""
        return {
            pod.full_name: pod
            for pod in self._cluster.all(Pod)
            if not pod.spec.host_network and not pod.is_finished
        }

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
    ) -> DirectionVerdict:
        isolating = self._isolating_policies(subject.pod, direction)
        return DirectionVerdict(
            direction,
            tuple(_name(policy) for policy in isolating),
            tuple(
                RuleReference(_name(policy), index)
                for policy in isolating
                for index, (peers, ports) in enumerate(_rules(policy, direction))
                if self._is_any_peer(policy, peers, peer)
                and self._is_any_port(ports, destination, traffic)
            ),
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
            return _is_in_block(party.address, peer.ip_block)
        if not self._is_subject(party.pod):
            return False
        pod = self._subjects[party.pod]
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
                return traffic.port in self._ports_named(destination.pod, name, traffic.protocol)

    def _ports_named(self, pod: str, name: str, protocol: str) -> Iterator[int]:
        """Yield the ports of a pod with a name; none for other hosts, which have no names."""
        if self._is_subject(pod):
            for container in self._subjects[pod].spec.long_running_containers:
                for port in container.ports:
                    if (port.name, port.protocol) == (name, protocol):
                        yield port.container_port


def _rules(
    policy: NetworkPolicy, direction: Direction
) -> Iterable[tuple[Sequence[NetworkPolicyPeer], Sequence[NetworkPolicyPort]]]:
    """Return peers and ports of the rules of a policy in one direction."""
    if direction == "Ingress":
        return ((rule.from_, rule.ports) for rule in policy.spec.ingress)
    return ((rule.to, rule.ports) for rule in policy.spec.egress)


def _is_in_block(address: str, block: IPBlock) -> bool:
    return _is_in(address, block.cidr) and not any(_is_in(address, part) for part in block.except_)


def _is_in(address: str, cidr: str) -> bool:
    """Return True if an address is in a range, which may have bits after its prefix."""
    range_ = ip.range_of(cidr)
    return range_ is not None and ip_address(address) in range_


def _name(policy: NetworkPolicy) -> str:
    return f"{policy.namespace}/{policy.name}"
