"""Members of a group: pods or nodes of it that policies distinguish, with titles of their own.

The titles are the same in two versions, so that a change is seen which allows one member what it
denies to another one. In dual-stack clusters, each address family is a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from kubenetlab.api.values.ip import version_of
from kubenetlab.observe.changes.terms import Network, PolicyTerms
from kubenetlab.observe.policies.model import Party

Members = Mapping[str, tuple[Party, ...]]
"""Title of a member → parties that represent it."""

_EQUAL_PODS: Final = 2
"""Number of equal pods without names of their own that are looked at: a pod and another one."""


class Candidate(NamedTuple):
    """A pod or a node of a group."""

    title: str
    """Its own title, if it keeps its name in all versions; empty for pods of a Deployment."""
    labels: Mapping[str, str]
    addresses: Sequence[str]
    pod: str
    """`namespace/name`; empty for a node."""
    node: str


class _Class(NamedTuple):
    """What policies see of a pod or a node."""

    labels: tuple[tuple[str, str | None], ...]
    ranges: tuple[Network, ...]
    """Ranges that contain one of its addresses."""


def members_of(
    title: str, candidates: Sequence[Candidate], terms: PolicyTerms, primary: int
) -> Members:
    """Return the members of a group; a single one with the group's title if all are equal.

    primary: primary IP version of the cluster. Members of the other one end with `over IPv6`.
    """
    classes: dict[_Class, list[Candidate]] = {}
    for candidate in candidates:
        classes.setdefault(_class_of(candidate, terms), []).append(candidate)
    members: dict[str, list[Party]] = {}
    for class_, equal in classes.items():
        for candidate in equal if equal[0].title else equal[:_EQUAL_PODS]:
            own = (
                title if len(classes) == 1 else candidate.title or title + _suffix(class_, classes)
            )
            for address in candidate.addresses:
                name = family_title(own, version_of(address), primary)
                party = Party(address, candidate.pod, candidate.node)
                members.setdefault(name, []).append(party)
    return {name: tuple(parties) for name, parties in members.items()}


def family_title(title: str, version: int, primary: int) -> str:
    """Return the title of a member, or of a host, with one IP version."""
    return title if version == primary else f"{title} over IPv{version}"


def _class_of(candidate: Candidate, terms: PolicyTerms) -> _Class:
    addresses = list(map(ip_address, candidate.addresses))
    return _Class(
        tuple((key, candidate.labels.get(key)) for key in sorted(terms.labels)),
        tuple(range_ for range_ in terms.ranges if any(address in range_ for address in addresses)),
    )


def _suffix(class_: _Class, classes: Mapping[_Class, object]) -> str:
    """Return what distinguishes pods of a class, such as ` in 10.244.1.0/24`."""
    shared = set.intersection(*({*each.labels} for each in classes))
    labels = [f"{key}={value or ''}" for key, value in class_.labels if (key, value) not in shared]
    narrowest = {
        version: max(ranges, key=lambda range_: range_.prefixlen)
        for version in (4, 6)
        if (ranges := [range_ for range_ in class_.ranges if range_.version == version])
    }
    parts = [f"with {', '.join(labels)}"] if labels else []
    if narrowest:
        parts.append(f"in {' and '.join(map(str, narrowest.values()))}")
    return "".join(f" {part}" for part in parts) or " (rest)"
