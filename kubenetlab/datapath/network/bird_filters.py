"""Policies of BGP sessions in the language of BIRD's filters.

Source: bird.network.cz, BIRD 2.0 user's guide, chapter 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kubenetlab.api.values.communities import parts
from kubenetlab.datapath.network.bgp_policy import Mark, Rule


def statements(rules: Sequence[Rule]) -> Iterator[str]:
    """Yield the statements of rules, with a comment for each object that has some."""
    origin = ""
    for rule in rules:
        if rule.origin != origin:
            origin = rule.origin
            yield f"# {origin}"
        conditions = " && ".join(_conditions(rule))
        prefix = f"if {conditions} then " if conditions else ""
        if rule.is_accepted:
            body = " ".join((*_changes(rule.added_communities, rule.prepended), "accept;"))
            yield f"{prefix}{{ {body} }}" if " " in body and conditions else f"{prefix}{body}"
        else:
            yield f"{prefix}reject;"


def marks(entries: Iterable[Mark]) -> Iterator[str]:
    """Yield the statements that mark exported routes."""
    for mark in entries:
        body = " ".join(_changes(mark.communities, mark.prepended))
        yield f"if net ~ {mark.prefix} then {{ {body} }}" if mark.prefix else body


def _conditions(rule: Rule) -> Iterator[str]:
    if rule.prefix:
        least, most = rule.matched_lengths
        operator = "!~" if rule.is_negated else "~"
        if least <= most:
            yield f"net {operator} [ {rule.prefix}{{{least},{most}}} ]"
        elif not rule.is_negated:
            yield "false"
    if rule.is_learned:
        yield "source = RTS_BGP"
    if rule.interface:
        yield f'ifname ~ "{rule.interface}"'
    if rule.community:
        yield f"{_tuple(rule.community)} ~ {_attribute(rule.community)}"
    if rule.as_path:
        yield f"bgp_path ~ [= {' '.join(map(str, rule.as_path))} * =]"


def _changes(communities: Iterable[str], prepended: Sequence[int]) -> Iterator[str]:
    for community in communities:
        yield f"{_attribute(community)}.add({_tuple(community)});"
    for number in reversed(prepended):
        yield f"bgp_path.prepend({number});"


def _tuple(community: str) -> str:
    return f"({', '.join(map(str, parts(community)))})"


def _attribute(community: str) -> str:
    return "bgp_community" if len(parts(community)) == 2 else "bgp_large_community"
