"""Reasons of verdicts in words, such as `default/deny-all isolates default/web for ingress`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubenetlab.observe.policies.model import DirectionVerdict, Party, RuleReference
from kubenetlab.observe.policies.paths import Protocol
from kubenetlab.observe.policies.verdicts import PathVerdict, PolicyVerdicts
from kubenetlab.observe.targets.locations import Location

MAX_POLICIES = 3
"""Number of policies that a reason names; the others are counted."""


def reasons(
    policies: PolicyVerdicts, source: Location, address: str, port: int, protocol: Protocol
) -> list[str]:
    """Return the reasons of the decision for a connection.

    If it is denied everywhere or on some paths, these are the policies that deny it. If it is
    allowed, these are the rules that allow it. There are none without policies about it.
    """
    denied = denials(policies, source, address, port, protocol)
    if denied:
        return denied
    return _texts(
        permission(direction)
        for verdict in _verdicts(policies, source, address, port, protocol)
        for direction in (verdict.egress, verdict.ingress)
        if direction.decided_by
    )


def denials(
    policies: PolicyVerdicts, source: Location, address: str, port: int, protocol: Protocol
) -> list[str]:
    """Return the policies that deny a connection, everywhere or on some paths."""
    return _texts(
        denial(direction, end)
        for verdict in _verdicts(policies, source, address, port, protocol)
        for direction, end in (
            (verdict.egress, verdict.path.leaving.source),
            (verdict.ingress, verdict.path.arriving.destination),
        )
        if not direction.is_allowed
    )


def denial(verdict: DirectionVerdict, end: Party) -> str:
    """Return the reason why a direction is denied at one end."""
    direction = verdict.direction.lower()
    if verdict.decided_in == "NetworkPolicy":
        verb = "isolates" if len(verdict.isolated_by) == 1 else "isolate"
        return f"{joined(verdict.isolated_by)} {verb} {end.pod} for {direction}"
    return f"{policy_of(verdict.decided_by[0])} denies {direction} of {end.pod}"


def permission(verdict: DirectionVerdict) -> str:
    """Return the rule by which a direction is allowed."""
    rule, *others = verdict.decided_by
    more = f", and {len(others)} more" if others else ""
    verb = "allows" if rule.kind == "NetworkPolicy" else "accepts"
    return f"{policy_of(rule)} {verb} {verdict.direction.lower()}{more}"


def policy_of(rule: RuleReference) -> str:
    """Return a rule in words: `default/web rule 0`, `AdminNetworkPolicy x rule 1 (name)`."""
    kind = "" if rule.kind == "NetworkPolicy" else f"{rule.kind} "
    name = f" ({rule.name})" if rule.name else ""
    return f"{kind}{rule.policy} rule {rule.index}{name}"


def _verdicts(
    policies: PolicyVerdicts, source: Location, address: str, port: int, protocol: Protocol
) -> Iterator[PathVerdict]:
    for _, verdicts in policies.verdicts(source, address, port, protocol):
        yield from verdicts


def _texts(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def joined(names: Iterable[str]) -> str:
    """Join names for a sentence: `a`, `a and b`, `a, b, c and 2 more`."""
    all_names = list(names)
    shown, rest = all_names[:MAX_POLICIES], len(all_names) - MAX_POLICIES
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
