"""Compare the listings of two labs whose names of links and MAC addresses are chosen at random."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from tests.labs.kernel_listing import sections

_RANDOM_NAME: Final = re.compile(r"\bveth[0-9a-f]{8}\b")
_MAC: Final = re.compile(r"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])")
_LINK_LOCAL: Final = re.compile(r"\bfe80::[0-9a-f:]+")


class Difference(Struct, frozen=True, order=True):
    """Entry of one listing that the other one does not have."""

    place: str
    """Namespace: `[node n1`."""
    entry: str
    is_ours: bool

    def __str__(self) -> str:
        return f"{self.place}] {'-' if self.is_ours else '+'} {self.entry}"


class Named(Struct, frozen=True):
    """Property in which a mode differs from upstream for a reason."""

    pattern: str
    """Regular expression for the property in a line `[NAMESPACE] ENTRY`; it is left out."""
    manual: str
    """Words of the mode's manual page that name the difference."""


class Findings(Struct, frozen=True):
    """Result of a comparison."""

    unnamed: Sequence[Difference]
    """Differences that are left without the named properties."""
    named: Sequence[Named]
    """Properties in which the listings do differ."""


def findings(ours: str, theirs: str, names: Sequence[Named]) -> Findings:
    """Compare two listings without the named properties, and see which of these differ."""
    first, second = _lines(ours), _lines(theirs)
    unnamed = _differences(first, second, names)
    named = [
        name
        for name in names
        if _differences(first, second, [other for other in names if other != name]) != unnamed
    ]
    return Findings(unnamed, named)


def _differences(
    ours: Iterable[str], theirs: Iterable[str], names: Sequence[Named]
) -> list[Difference]:
    """Return the lines that only one of two listings has, without the named properties."""
    first, second = (Counter(_without(lines, names)) for lines in (ours, theirs))
    return sorted(
        _difference(line, is_ours)
        for is_ours, rest in ((True, first - second), (False, second - first))
        for line in rest.elements()
    )


def _difference(line: str, is_ours: bool) -> Difference:
    place, _, entry = line.partition("] ")
    return Difference(place, entry, is_ours)


def _without(lines: Iterable[str], names: Sequence[Named]) -> Iterator[str]:
    for line in lines:
        for name in names:
            line = re.sub(name.pattern, "", line)
        if line:
            yield line


def _lines(listing: str) -> list[str]:
    """Return lines `[NAMESPACE] ENTRY`, with descriptions of random names."""
    text = described(listing)
    return [f"[{place}] {entry}" for place, entries in sections(text).items() for entry in entries]


def described(listing: str) -> str:
    """Return a listing in which each MAC is replaced by the name of its link: `<eth0 of pod a>`.

    Names of links and link-local addresses that are chosen at random are replaced, too.
    """
    text = _RANDOM_NAME.sub("veth", listing)
    owners = {
        found[0]: f"<{entry.split()[1]} of {place}>"
        for place, entries in sections(text).items()
        for entry in entries
        if entry.startswith("link ") and (found := _MAC.search(entry))
    }
    text = _MAC.sub(lambda match: owners.get(match[0], match[0]), text)
    return _LINK_LOCAL.sub("<link-local>", text)
