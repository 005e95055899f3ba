"""Ports that policies name, for the pods that they concern.

Policies that apply to a pod distinguish the ports of connections to it by their ingress rules, and
those of connections from it by their egress rules. The ports between two bounds that these rules
name are equal to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, get_args

import msgspec

from kubenetlab.api.calico.policies import CALICO_POLICY_KINDS, CalicoPolicy, port_range
from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS, sections
from kubenetlab.api.policies.network_policy import Direction, NetworkPolicy
from kubenetlab.api.policies.tiers import tier_policies
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.peers import PolicyMembers

PROTOCOLS: Final[tuple[Protocol, ...]] = get_args(Protocol)
_LABELS: Final = "matchLabels"
"""Field with labels by their keys, which are no names of fields: a label may be called `port`."""


class PortRange(NamedTuple):
    """Consecutive ports of a protocol."""

    protocol: Protocol
    first: int
    last: int

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.protocol}"


class RulePorts(NamedTuple):
    """Ports in the rules of the policies that apply to a pod in one direction."""

    ranges: frozenset[PortRange] = frozenset()
    names: frozenset[str] = frozenset()
    """Names of ports, of whatever protocol."""
    has_policies: bool = False
    """True if a policy applies, also if it names no port."""
    stated: frozenset[PortRange] = frozenset()
    """Those of `ranges` whose protocol is in the rule; others mean ports of every protocol."""

    def united(self, other: RulePorts) -> RulePorts:
        """Return the ports in both."""
        return RulePorts(
            self.ranges | other.ranges,
            self.names | other.names,
            self.has_policies or other.has_policies,
            self.stated | other.stated,
        )


NO_PORTS: Final = RulePorts()


class PolicyPorts:
    """Ports in the policies of one cluster, for each pod."""

    def __init__(self, cluster: Cluster) -> None:
        self._of_pods: dict[tuple[str, Direction], RulePorts] = {}
        for direction, pods, ports in _applied(cluster):
            for pod in pods:
                key = (pod.full_name, direction)
                self._of_pods[key] = self._of_pods.get(key, NO_PORTS).united(ports)

    def of(self, pod: str, direction: Direction) -> RulePorts:
        """Return the ports in the rules that apply to a pod in one direction.

        pod: `namespace/name`; there are no rules for other parties.
        """
        return self._of_pods.get((pod, direction), NO_PORTS)


def partition(ranges: Iterable[PortRange]) -> list[PortRange]:
    """Return the ports in some ranges, divided at all of their bounds, in order."""
    result = []
    by_protocol: dict[Protocol, list[PortRange]] = {}
    for each in ranges:
        by_protocol.setdefault(each.protocol, []).append(each)
    for protocol, own in by_protocol.items():
        bounds = sorted({each.first for each in own} | {each.last + 1 for each in own})
        result += [
            PortRange(protocol, first, end - 1)
            for first, end in pairwise(bounds)
            if any(each.first <= first <= each.last for each in own)
        ]
    return sorted(result, key=lambda each: (each.first, each.last, each.protocol))


def other_port(protocol: Protocol, ranges: Iterable[PortRange]) -> int | None:
    """Return the highest port of a protocol that is in no range; None if there is none."""
    highest = MAX_PORT
    own = (each for each in ranges if each.protocol == protocol)
    for each in sorted(own, key=lambda each: each.last, reverse=True):
        if each.last < highest:
            break
        highest = min(highest, each.first - 1)
    return highest or None


def _applied(cluster: Cluster) -> Iterator[tuple[Direction, list[Pod], RulePorts]]:
    """Yield each list of rules in policies: direction, pods to which it applies, and ports."""
    members = PolicyMembers(cluster)
    for policy in cluster.all(NetworkPolicy):
        pods = members.selected(policy)
        for direction in policy.directions:
            ports = _ports_in(list(policy.spec.rules(direction)), PROTOCOLS[:1])
            yield direction, pods, ports
    for tier_policy in tier_policies(cluster):
        pods, spec = members.subjects_of(tier_policy), tier_policy.spec
        for direction in spec.directions:
            rules = spec.ingress if direction == "Ingress" else spec.egress
            yield direction, pods, _ports_in(rules)
    yield from _applied_by_plugins(cluster, members)


def _applied_by_plugins(
    cluster: Cluster, members: PolicyMembers
) -> Iterator[tuple[Direction, list[Pod], RulePorts]]:
    """Yield the same for the policies of CNI plugins."""
    for kind in CALICO_POLICY_KINDS:
        for calico in cluster.all(kind):
            pods = members.selected_by_calico(calico)
            for direction in calico.directions:
                yield direction, pods, _ports_of_calico(cluster, calico, direction)
    for cilium_kind in CILIUM_KINDS:
        for cilium in cluster.all(cilium_kind):
            for section in sections(cilium):
                pods = members.selected_by_cilium(cilium, section.rule)
                yield section.direction, pods, _ports_in(section.rules)


def _ports_of_calico(cluster: Cluster, policy: CalicoPolicy, direction: Direction) -> RulePorts:
    """Return the ports in the rules of a policy of Calico, also those behind Services."""
    rules = policy.spec.rules(direction)
    services = (each for rule in rules if (each := rule.destination.services) is not None)
    slices = (
        slice_
        for each in services
        for slice_ in cluster.slices_by_service.get(
            (each.namespace or policy.namespace, each.name), ()
        )
    )
    behind = frozenset(
        PortRange(port.protocol, port.port, port.port)
        for slice_ in slices
        for port in slice_.ports
        if port.port is not None
    )
    return _ports_in(rules).united(RulePorts(behind, stated=behind))


def _ports_in(rules: object, protocols: Sequence[Protocol] = PROTOCOLS) -> RulePorts:
    """Return the ports in rules.

    protocols: those of ports without a protocol.
    """
    document = msgspec.to_builtins(rules)
    names = {name for fields in mappings_in(document) for name in _names(fields)}
    return RulePorts(
        frozenset(_ranges_in(document, protocols, PROTOCOLS)),
        frozenset(names),
        has_policies=True,
        stated=frozenset(_ranges_in(document, (), ())),
    )


def _ranges_in(
    value: object, protocols: Sequence[Protocol], every: Sequence[Protocol]
) -> Iterator[PortRange]:
    """Yield the ports in a part of a policy.

    protocols: those of ports without a protocol of their own.
    every: those of ports whose protocol is another one, such as Cilium's ANY.
    """
    if isinstance(value, Mapping):
        if "protocol" in value:
            protocols = [each for each in PROTOCOLS if each == value["protocol"]] or every
        for first, last in _limits(value):
            yield from (PortRange(each, first, last) for each in protocols)
        for key, inner in value.items():
            if key != _LABELS:
                named = [each for each in PROTOCOLS if each.lower() == key]
                yield from _ranges_in(inner, named or protocols, every)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _ranges_in(inner, protocols, every)


def mappings_in(value: object) -> Iterator[Mapping[str, object]]:
    """Yield all mappings inside a document but those of labels, and the document itself."""
    if isinstance(value, Mapping):
        yield value
        for key, inner in value.items():
            if key != _LABELS:
                yield from mappings_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from mappings_in(inner)


def _limits(fields: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last port of each range in one mapping of any kind of policy."""
    bounds = (("port", "endPort"), ("number", "number"), ("start", "end"))
    for names in bounds:
        first, last = (_number(fields.get(name)) for name in names)
        if first:
            yield first, last or first
    for name in ("ports", "notPorts"):
        entries = fields.get(name)
        for entry in entries if isinstance(entries, list | tuple) else ():
            given = port_range(entry) if isinstance(entry, int | str) else None
            if given is not None:
                yield given


def _names(fields: Mapping[str, object]) -> set[str]:
    """Return the names of ports in one mapping of any kind of policy."""
    texts = [fields.get("port"), fields.get("destinationNamedPort")]
    for name in ("ports", "notPorts"):
        entries = fields.get(name)
        texts += entries if isinstance(entries, list | tuple) else ()
    return {
        text.lower()
        for text in texts
        if isinstance(text, str) and text and port_range(text) is None
    }


def _number(value: object) -> int | None:
    """Return a port number, which may be given as text; None for other values."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) else None
