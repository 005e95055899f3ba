"""Policies of BGP sessions: which routes a speaker imports and exports, and how it marks them.

`bird_filters.py` renders them for BIRD. `accepts` evaluates them for prefixes whose attributes are
known before BIRD runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from kubenetlab.api.values import ip

Operator = Literal["Equal", "NotEqual", "In", "NotIn"]


class Rule(Struct, frozen=True):
    """Conditions, all of which a route must meet, and the decision about such a route."""

    is_accepted: bool
    """True to accept the route, False to reject it. Further rules are not considered."""
    prefix: str = ""
    """Range to which the route is compared; empty for all routes."""
    operator: Operator = "In"
    lengths: tuple[int, int] = (0, 128)
    """Smallest and largest prefix length of the routes in `prefix`."""
    is_learned: bool = False
    """True for routes that were learned from peers only."""
    interface: str = ""
    """Pattern for the link to the next hop; empty for all routes."""
    community: str = ""
    """Community that the route has; empty for all routes."""
    as_path: tuple[int, ...] = ()
    """AS numbers with which the path begins."""
    added_communities: tuple[str, ...] = ()
    """Communities that an accepted route gets."""
    prepended: tuple[int, ...] = ()
    """AS numbers that the path of an accepted route gets, in the order of the resulting path."""
    origin: str = ""
    """Object that has the rule, for the comment in the configuration."""

    @property
    def is_negated(self) -> bool:
        """True if routes outside of the range match."""
        return self.operator in ("NotEqual", "NotIn")

    @property
    def matched_lengths(self) -> tuple[int, int]:
        """Smallest and largest prefix length in the range. No route matches if they are reversed.

        Equal is a range with the prefix length of `prefix` only.
        """
        network = ip.network(self.prefix)
        own = network.prefixlen
        is_exact = self.operator in ("Equal", "NotEqual")
        longest = own if is_exact else network.max_prefixlen
        return max(own, self.lengths[0]), min(longest, self.lengths[1])


class Mark(Struct, frozen=True):
    """Communities and AS numbers that exported routes get after the rules."""

    prefix: str = ""
    """Range with the routes; empty for all routes."""
    communities: tuple[str, ...] = ()
    prepended: tuple[int, ...] = ()
    """AS numbers at the beginning of the path."""


def accepts(rules: Sequence[Rule], prefix: str, *, is_learned: bool) -> bool | None:
    """Return the decision about a prefix; None if it depends on attributes of the route.

    is_learned: True if the speaker has learned the route from a peer.
    """
    is_certain = True
    for rule in rules:
        if (rule.is_learned and not is_learned) or not _matches_prefix(rule, prefix):
            continue
        if rule.interface or rule.community or rule.as_path:
            is_certain = False
        elif is_certain:
            return rule.is_accepted
        else:
            return None
    return True if is_certain else None


def _matches_prefix(rule: Rule, prefix: str) -> bool:
    if not rule.prefix:
        return True
    route, range_ = ip.network(prefix), ip.network(rule.prefix)
    least, most = rule.matched_lengths
    is_in = ip.is_part(route, range_) and least <= route.prefixlen <= most
    return is_in is not rule.is_negated
