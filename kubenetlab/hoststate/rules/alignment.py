"""Alignment of two rule lists: rules that are kept, moved, changed, missing or additional."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Pair = tuple[int, int]
"""Positions of one rule in the desired and in the observed list, from 0."""
_MAX_COMPARISONS = 4096
"""Maximum product of the lengths of a gap; rules in longer gaps are paired by position, because
comparing all of them takes too long."""
_Link = tuple[Pair, "_Link | None"]
"""The last pair of a common subsequence, and the link to the pairs before it."""


class Alignment(NamedTuple):
    """Two rule lists side by side, as positions from 0."""

    kept: list[Pair]
    moved: list[Pair]
    changed: list[Pair]
    missing: list[int]
    """Positions in the desired list."""
    additional: list[int]
    """Positions in the observed list."""


def align(desired: Sequence[str], observed: Sequence[str]) -> Alignment:
    """Align two rule lists so that as few rules as possible are out of order.

    A rule that is in both lists but out of order has moved. Of the rules left over, those between
    the same two kept rules form pairs: the observed one replaced the desired one.
    """
    kept = _longest_common_subsequence(desired, observed)
    left = _without(range(len(desired)), (position for position, _ in kept))
    right = _without(range(len(observed)), (position for _, position in kept))
    moved = _moved(desired, observed, left, right)
    left = _without(left, (position for position, _ in moved))
    right = _without(right, (position for _, position in moved))
    left_gaps, right_gaps = (
        _gaps(left, [pair[0] for pair in kept]),
        _gaps(right, [pair[1] for pair in kept]),
    )
    changed = [
        pair
        for gap, positions in left_gaps.items()
        for pair in _replaced(desired, observed, positions, right_gaps.get(gap, []))
    ]
    missing = _without(left, (position for position, _ in changed))
    additional = _without(right, (position for _, position in changed))
    return Alignment(kept, moved, changed, missing, additional)


def _gaps(positions: Iterable[int], kept: Sequence[int]) -> dict[int, list[int]]:
    """Group positions by the number of kept rules before them."""
    gaps: dict[int, list[int]] = {}
    for position in positions:
        gaps.setdefault(bisect_left(kept, position), []).append(position)
    return gaps


def _replaced(
    desired: Sequence[str], observed: Sequence[str], left: Sequence[int], right: Sequence[int]
) -> list[Pair]:
    """Pair as many rules of one gap as possible, in order, with the highest total similarity."""
    if len(left) * len(right) > _MAX_COMPARISONS:
        return list(zip(left, right, strict=False))
    # best[i][j]: total similarity of the best pairs of left[i:] and right[j:].
    best = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    similarity = [
        [_similarity(desired[left_rule], observed[right_rule]) for right_rule in right]
        for left_rule in left
    ]
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            best[i][j] = max(best[i + 1][j + 1] + similarity[i][j], best[i + 1][j], best[i][j + 1])
    pairs: list[Pair] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if best[i][j] == best[i + 1][j + 1] + similarity[i][j]:
            pairs.append((left[i], right[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _similarity(left: str, right: str) -> int:
    """Return the length of the common prefix and suffix of two rules in characters, plus one.

    The addition makes any pair better than none.
    """
    begin = _common_length(left, right)
    return 1 + begin + _common_length(left[begin:][::-1], right[begin:][::-1])


def _without(positions: Iterable[int], taken: Iterable[int]) -> list[int]:
    excluded = set(taken)
    return [position for position in positions if position not in excluded]


def _moved(
    desired: Sequence[str], observed: Sequence[str], left: Iterable[int], right: Iterable[int]
) -> list[Pair]:
    """Pair the equal rules among those that are left over on both sides."""
    positions: dict[str, list[int]] = {}
    for position in right:
        positions.setdefault(observed[position], []).append(position)
    return [
        (position, positions[desired[position]].pop(0))
        for position in left
        if positions.get(desired[position])
    ]


def _longest_common_subsequence(desired: Sequence[str], observed: Sequence[str]) -> list[Pair]:
    """Return the longest common subsequence as pairs of positions.

    The time grows with the number of pairs of equal rules, so the common beginning and end are set
    aside first. Source: J. W. Hunt, T. G. Szymanski: A fast algorithm for computing longest common
    subsequences (CACM 20:5, 1977).
    """
    begin = _common_length(desired, observed)
    end = _common_length(desired[begin:][::-1], observed[begin:][::-1])
    positions: dict[str, list[int]] = {}
    for right in reversed(range(begin, len(observed) - end)):
        positions.setdefault(observed[right], []).append(right)
    ends: list[int] = []  # length - 1 → smallest observed position at which such a subsequence ends
    links: list[_Link] = []  # length - 1 → that subsequence's last pair, and the pairs before it
    for left in range(begin, len(desired) - end):
        for right in positions.get(desired[left], ()):
            length = bisect_left(ends, right)
            ends[length : length + 1] = [right]
            links[length : length + 1] = [((left, right), links[length - 1] if length else None)]
    middle: list[Pair] = []
    link = links[-1] if links else None
    while link is not None:
        pair, link = link
        middle.append(pair)
    tail = ((len(desired) - rest, len(observed) - rest) for rest in range(end, 0, -1))
    return [*((position, position) for position in range(begin)), *reversed(middle), *tail]


def _common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the common prefix of two sequences."""
    for position, (left_item, right_item) in enumerate(zip(left, right, strict=False)):
        if left_item != right_item:
            return position
    return min(len(left), len(right))
