"""Comparison of two versions of a cluster: the connections that the newer one opens and closes.

Verdicts come from the evaluator of policies. Routes and programs are not considered: a connection
from outside may be allowed although no Service leads to the pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from kubenetlab.api.kinds import POLICY_KINDS
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import version_of
from kubenetlab.observe.changes.parties import OWN_NODE, Group, groups_of
from kubenetlab.observe.changes.ports import ConsideredPort, considered_ports, may_change, titles_of
from kubenetlab.observe.changes.terms import PolicyTerms, terms_of
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import (
    DirectionVerdict,
    Party,
    RuleReference,
    Traffic,
    Verdict,
    named_policy,
)

Access = Literal["allowed", "denied", "partly", "absent"]
"""Verdict about a connection between groups.

partly: it depends on the pods; absent: one end is not in that version.
"""
NEW: Final = "new"
REMOVED: Final = "removed"
"""Reasons for connections of pods that only one version has."""
ALL_PORTS: Final = "all ports"

_RANK: Final[Mapping[Access, int]] = {"absent": 0, "denied": 0, "partly": 1, "allowed": 2}


class Change(Struct, frozen=True):
    """Connections that change in the same way for the same reason."""

    change: Literal["opened", "closed"]
    sources: tuple[str, ...]
    """Titles of groups, such as `deploy:shop/web`, `all pods in shop` or `outside 10.0.0.0/8`."""
    destinations: tuple[str, ...]
    ports: tuple[str, ...]
    """`8080/TCP`, `ping`, `other ports`, `other UDP ports`, or `all ports` alone."""
    before: Access
    after: Access
    reasons: tuple[str, ...]
    """Policies that deny or allow the connections, with file and line."""
    count: int
    """Number of connections: triples of source, destination and port."""


class _Decision(NamedTuple):
    """Verdict about connections between groups or members, and one that decided it."""

    access: Access
    verdict: Verdict | None
    """A verdict that denies a connection, if there is one; else one that allows it."""


class _GroupDecision(NamedTuple):
    """Verdict about connections between groups, and about those between their members."""

    whole: _Decision
    members: Mapping[tuple[str, str], _Decision]
    """By the titles of source and destination."""


class _Row(NamedTuple):
    """Connections that change in the same way for the same reason, whatever the port."""

    source: str
    destination: str
    before: Access
    after: Access
    reasons: tuple[str, ...]


class _Version:
    """One version of the cluster."""

    def __init__(self, cluster: Cluster, terms: PolicyTerms, directory: str) -> None:
        self.cluster = cluster
        self._directory = directory
        self.groups = groups_of(cluster, terms)
        self._evaluator = Evaluator(cluster)

    def decision(self, source: str, destination: str, traffic: Traffic) -> _GroupDecision | None:
        """Return the decision between two groups; None if they have no pair of parties."""
        if source not in self.groups or destination not in self.groups:
            return _GroupDecision(_Decision("absent", None), {})
        verdicts: dict[tuple[str, str], list[Verdict]] = {}
        sources, destinations = (self.groups[title].members for title in (source, destination))
        for titles in product(sources, destinations):
            for first, second in product(sources[titles[0]], destinations[titles[1]]):
                if _is_pair(first, second, is_own_node=destination == OWN_NODE):
                    verdict = self._evaluator.verdict(first, second, traffic)
                    verdicts.setdefault(titles, []).append(verdict)
        if not verdicts:
            return None
        members = {titles: _united(own) for titles, own in verdicts.items()}
        return _GroupDecision(_united([each for own in verdicts.values() for each in own]), members)

    def place_of(self, kind: str, name: str) -> str:
        """Return ` (file:line)` of a policy, or nothing if its file is not known."""
        namespace, _, own = name.rpartition("/")
        for policy_kind in POLICY_KINDS:
            if policy_kind.kind == kind:
                policy = self.cluster.get(policy_kind, namespace, own)
                source = self.cluster.source_of(policy) if policy is not None else None
                if source is not None:
                    return f" ({source.file.removeprefix(self._directory)}:{source.line})"
        return ""


def _united(verdicts: Sequence[Verdict]) -> _Decision:
    denied = next((verdict for verdict in verdicts if not verdict.is_allowed), None)
    if denied is None:
        return _Decision("allowed", verdicts[0])
    is_partly = any(verdict.is_allowed for verdict in verdicts)
    return _Decision("partly" if is_partly else "denied", denied)


def _is_pair(source: Party, destination: Party, *, is_own_node: bool) -> bool:
    """Return True if connections between two parties of groups count.

    A pod always reaches itself, and a node its own pods.

    is_own_node: True if the destination stands for the node of the source, False for other nodes.
    """
    if version_of(source.address) != version_of(destination.address):
        return False
    if source.pod and destination.pod:
        return source.pod != destination.pod
    return (bool(source.node) and source.node == destination.node) == is_own_node


def compare(old: Cluster, new: Cluster, directory: str = "") -> list[Change]:
    """Return the connections that change, in the order of destinations and sources.

    The clusters have addresses for their pods, as in a simulated lab.
    directory: current directory. The paths of files in it are shortened.
    """
    terms = terms_of(old).united(terms_of(new))
    before, after = (_Version(cluster, terms, f"{directory}/") for cluster in (old, new))
    groups = {**before.groups, **after.groups}
    rows: list[Change] = []
    for destination in sorted(groups):
        for source in sorted(groups):
            is_pod = bool(groups[source].namespace or groups[destination].namespace)
            if not (is_pod and groups[source].is_given) or source == OWN_NODE:
                continue
            rows += _changes(source, destination, before, after)
    return _merged(rows, groups)


def _changes(source: str, destination: str, before: _Version, after: _Version) -> Iterator[Change]:
    """Yield the changes between two groups, those of all ports with the same reason together."""
    pairs = [
        (version.groups.get(source), version.groups.get(destination)) for version in (before, after)
    ]
    if not any(map(may_change, pairs)):
        return
    ports = considered_ports(pairs)
    grouped: dict[_Row, list[ConsideredPort]] = {}
    for port in ports:
        first = before.decision(source, destination, port.traffic)
        second = after.decision(source, destination, port.traffic)
        if first is None or second is None:  # a pod that becomes several, for example
            continue
        if destination == OWN_NODE and "absent" in (first.whole.access, second.whole.access):
            continue  # each pod has a node
        for ends, old, new in _differences((source, destination), first, second):
            reasons = tuple(_reasons(old, new, before, after))
            grouped.setdefault(_Row(*ends, old.access, new.access, reasons), []).append(port)
    for row, same in grouped.items():
        titles = titles_of(same, ports)
        yield Change(
            "opened" if _RANK[row.after] > _RANK[row.before] else "closed",
            (row.source,),
            (row.destination,),
            (ALL_PORTS,) if len(same) == len(ports) else titles,
            row.before,
            row.after,
            row.reasons,
            len(titles),
        )


def _differences(
    titles: tuple[str, str], old: _GroupDecision, new: _GroupDecision
) -> Iterator[tuple[tuple[str, str], _Decision, _Decision]]:
    """Yield titles and decisions that differ: of the groups, or of members that are in both.

    Members are compared if they differ from each other: for one of them, a connection may be opened
    while it is closed for another one.
    """
    pairs = {titles: (old.whole, new.whole)}
    common = [key for key in old.members if key in new.members]
    is_partly = "partly" in (old.whole.access, new.whole.access)
    is_same = old.members.keys() == new.members.keys()
    if is_partly and (is_same or old.whole.access == new.whole.access):
        pairs = {key: (old.members[key], new.members[key]) for key in common}
    for key, (first, second) in pairs.items():
        if _RANK[first.access] != _RANK[second.access]:
            yield key, first, second


# --- reasons ---


def _reasons(
    first: _Decision, second: _Decision, before: _Version, after: _Version
) -> Iterator[str]:
    """Yield why a connection is denied in the new version, or allowed although it was denied."""
    if second.access == "absent" or first.access == "absent":
        yield REMOVED if second.access == "absent" else NEW
        return
    assert first.verdict is not None
    assert second.verdict is not None
    ends = ("source", "destination")
    directions = zip(
        ends,
        (first.verdict.egress, first.verdict.ingress),
        (second.verdict.egress, second.verdict.ingress),
        strict=True,
    )
    for end, old, new in directions:
        if not new.is_allowed:
            yield from _denial(new, end, after)
        elif not old.is_allowed:
            if new.decided_by:
                rule = new.decided_by[0]
                yield f"{_rule(rule, after)} allows it for the {end}"
            else:
                (denial,) = _denial(old, end, before)
                yield f"no policy isolates the {end} any more; before: {denial}"


def _denial(verdict: DirectionVerdict, end: str, version: _Version) -> Iterator[str]:
    """Yield the policies that deny a direction at one end."""
    if not verdict.decided_by:
        policies = list(map(named_policy, verdict.isolated_by))
        is_plain = all(kind == NetworkPolicy.kind for kind, _ in policies)
        names = " and ".join(
            f"{'' if is_plain else f'{kind} '}{name}{version.place_of(kind, name)}"
            for kind, name in policies
        )
        if is_plain:
            names = f"{'NetworkPolicy' if len(policies) == 1 else 'NetworkPolicies'} {names}"
        yield f"{names} {'isolates' if len(policies) == 1 else 'isolate'} the {end}"
    else:
        yield f"{_rule(verdict.decided_by[0], version)} denies it for the {end}"


def _rule(rule: RuleReference, version: _Version) -> str:
    return f"{rule.kind} {rule.policy} rule {rule.index}{version.place_of(rule.kind, rule.policy)}"


# --- merging ---


def _merged(rows: Sequence[Change], groups: Mapping[str, Group]) -> list[Change]:
    """Return fewer rows: first the sources of a destination together, then the destinations."""
    by_destination: dict[object, list[Change]] = {}
    for row in rows:
        key = (row.destinations, row.ports, row.before, row.after, row.reasons)
        by_destination.setdefault(key, []).append(row)
    merged = [
        _replaced(same, _summary((row.sources[0] for row in same), same[0].destinations, groups))
        for same in by_destination.values()
    ]
    by_sources: dict[object, list[Change]] = {}
    for row in merged:
        key = (row.sources, row.ports, row.before, row.after, row.reasons)
        by_sources.setdefault(key, []).append(row)
    return [
        _replaced(
            same,
            same[0].sources,
            _summary((row.destinations[0] for row in same), same[0].sources, groups),
        )
        for same in by_sources.values()
    ]


def _replaced(
    rows: Sequence[Change], sources: tuple[str, ...], destinations: tuple[str, ...] = ()
) -> Change:
    """Return one row for several that differ in one end."""
    first = rows[0]
    return Change(
        first.change,
        sources,
        destinations or first.destinations,
        first.ports,
        first.before,
        first.after,
        first.reasons,
        sum(row.count for row in rows),
    )


def _summary(
    titles: Iterable[str], other_end: Sequence[str], groups: Mapping[str, Group]
) -> tuple[str, ...]:
    """Return titles of groups, with `all pods in N` in place of all groups of a namespace.

    other_end: groups at the other end. A single pod does not connect to itself.
    """
    rest = dict.fromkeys(titles)
    result: list[str] = []
    pods = [group for group in groups.values() if group.namespace and group.is_given]
    namespaces = sorted({group.namespace for group in pods})
    for namespace in namespaces:
        own = {group.title for group in pods if group.namespace == namespace}
        present = own & rest.keys()
        if len(present) > 1 and own - present <= set(other_end):
            result.append(f"all pods in {namespace}")
            rest = {title: None for title in rest if title not in own}
    if len(result) > 1 and len(result) == len(namespaces):
        result = ["all pods"]
    outside = [title for title in rest if title in groups and groups[title].is_outside]
    if len(outside) > 1 and len(outside) == sum(group.is_outside for group in groups.values()):
        result.append("all hosts outside")
        rest = {title: None for title in rest if title not in outside}
    return (*result, *rest)
