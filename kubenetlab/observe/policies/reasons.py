"""Reasons of verdicts, such as `NetworkPolicy default/deny isolates default/web for ingress`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.observe.policies.model import DirectionVerdict, Party, RuleReference, named_policy
from kubenetlab.observe.policies.paths import Protocol
from kubenetlab.observe.policies.verdicts import PathVerdict, PolicyVerdicts
from kubenetlab.observe.targets.locations import Location

MAX_POLICIES = 3
"""Number of policies that a reason names; the others are counted."""

_DNS_PORT: Final = 53
_UNANSWERED: Final = re.compile(r"\blookup \S+ on \[?([0-9A-Fa-f:.]+?)\]?:53: ")
"""Beginning of the resolver's error about a name server that does not answer."""

PlaceOf = Callable[[str, str, tuple[str | int, ...]], str]
"""Function that returns file:line of a field of a policy, for the policy's kind, name and path."""


def no_place(kind: str, policy: str, path: tuple[str | int, ...]) -> str:
    """Return no place: reasons name policies without file and line."""
    return ""


def reasons(
    policies: PolicyVerdicts,
    source: Location,
    address: str,
    port: int,
    protocol: Protocol,
    place_of: PlaceOf = no_place,
) -> list[str]:
    """Return the reasons of the decision for a connection.

    If it is denied everywhere or on some paths, these are the policies that deny it. If it is
    allowed, these are the rules that allow it. There are none without policies about it.
    """
    denied = denials(policies, source, address, port, protocol, place_of)
    if denied:
        return denied
    return _texts(
        permission(direction, place_of)
        for verdict in _verdicts(policies, source, address, port, protocol)
        for direction in (verdict.egress, verdict.ingress)
        if direction.decided_by
    )


def denials(
    policies: PolicyVerdicts,
    source: Location,
    address: str,
    port: int,
    protocol: Protocol,
    place_of: PlaceOf = no_place,
) -> list[str]:
    """Return the policies that deny a connection, everywhere or on some paths."""
    return _texts(
        denial(direction, end, place_of)
        for verdict in _verdicts(policies, source, address, port, protocol)
        for direction, end in (
            (verdict.egress, verdict.path.leaving.source),
            (verdict.ingress, verdict.path.arriving.destination),
        )
        if not direction.is_allowed
    )


def lookup_denials(
    policies: PolicyVerdicts | None, source: Location, message: str, place_of: PlaceOf = no_place
) -> list[str]:
    """Return the policies that deny the query of a failed lookup to a name server.

    message: the resolver's error, which names the server unless it has answered.
    """
    match = _UNANSWERED.search(message)
    if policies is None or match is None:
        return []
    return denials(policies, source, match[1], _DNS_PORT, "UDP", place_of)


def denial(verdict: DirectionVerdict, end: Party, place_of: PlaceOf = no_place) -> str:
    """Return the reason why a direction is denied at one end."""
    direction = verdict.direction.lower()
    if not verdict.decided_by:
        policies = list(map(named_policy, verdict.isolated_by))
        is_plain = all(kind == NetworkPolicy.kind for kind, _ in policies)
        titled = joined(
            f"{'' if is_plain else f'{kind} '}{name}{_in_parentheses(place_of(kind, name, ()))}"
            for kind, name in policies
        )
        if is_plain:
            titled = f"{'NetworkPolicy' if len(policies) == 1 else 'NetworkPolicies'} {titled}"
        verb = "isolates" if len(policies) == 1 else "isolate"
        return f"{titled} {verb} {end.pod} for {direction}"
    rule = verdict.decided_by[0]
    return f"{rule_title(rule, verdict, place_of)} denies {direction} of {end.pod}"


def permission(verdict: DirectionVerdict, place_of: PlaceOf = no_place) -> str:
    """Return the rule by which a direction is allowed."""
    rule, *others = verdict.decided_by
    more = f", and {len(others)} more" if others else ""
    verb = "allows" if rule.kind == "NetworkPolicy" else "accepts"
    return f"{rule_title(rule, verdict, place_of)} {verb} {verdict.direction.lower()}{more}"


def rule_title(rule: RuleReference, verdict: DirectionVerdict, place_of: PlaceOf = no_place) -> str:
    """Return a rule with its policy, such as `AdminNetworkPolicy x rule 1 (name, x.yaml:9)`."""
    place = place_of(rule.kind, rule.policy, rule.path(verdict.direction))
    return f"{rule.kind} {rule.policy} rule {rule.index}{_in_parentheses(rule.name, place)}"


def _in_parentheses(*details: str) -> str:
    shown = ", ".join(filter(None, details))
    return f" ({shown})" if shown else ""


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
