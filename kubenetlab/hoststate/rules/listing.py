"""Listings of rules as data, and the differences between two of them.

A listing is the content of a rule backend in one namespace: tables, chains, sets, virtual servers,
maps. Both sides of a comparison have to use the same words, so that entries compare as text. The
line of a difference begins with what a repair would do: `+` adds, `-` removes, `~` changes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from msgspec import Struct, structs

Action = Literal["add", "change", "move", "remove", "unknown"]
"""Action of a repair. Unknown: the state could not be compared."""


class RuleContainer(Struct, frozen=True):
    """A table, chain, set, map or virtual server with its entries.

    The entries are rules in order, or elements by key.
    """

    name: str
    """Unique in a listing: `nft chain ip kube-proxy services`."""
    unit: str = ""
    """Noun for one entry: `rule`; empty for a container that has none."""
    prefix: str = ""
    """Text of a line before an entry: `nft rule ip kube-proxy services: `."""
    suffix: str = ""
    """Text of a line after an entry."""
    properties: str = ""
    """Settings of the container itself: hook, priority and policy, type and flags."""
    rules: tuple[str, ...] = ()
    elements: Mapping[str, str] = {}
    """Whole text of each element by key."""
    optional: frozenset[str] = frozenset()
    """Keys of elements that are no difference when only the observed listing has them."""
    parent: str = ""
    """Name of the container that contains this one. If the parent is missing or additional, its
    line stands for all that it contains."""
    is_filled_by_packets: bool = False
    """True if packets add and remove the entries, which are not compared."""
    is_shared: bool = False
    """True if the container belongs to others: only the entries listed here are compared."""

    @property
    def summary(self) -> str:
        """Name of the container with the number of its entries."""
        count = len(self.rules) + len(self.elements)
        return (
            f"{self.name}: {count} {self.unit}{'' if count == 1 else 's'}"
            if self.unit
            else self.name
        )

    @property
    def content(self) -> str:
        """Properties and entries, one a line."""
        return "\n".join(filter(None, (self.properties, *self.rules, *self.elements.values())))


class Difference(Struct, frozen=True, omit_defaults=True):
    """One object or entry in which desired and observed state differ."""

    line: str
    """The difference as `diff` prints it."""
    action: Action
    object: str
    """The object that differs, or the container of the entry that differs."""
    desired: str | None = None
    """Desired entry or content of the object; None if it should not exist."""
    observed: str | None = None
    """Observed entry or content of the object; None if it does not exist."""
    desired_rule: int | None = None
    """Number of the rule in its chain, from 1; None for anything but a rule."""
    observed_rule: int | None = None


def differences(
    desired: Iterable[RuleContainer], observed: Iterable[RuleContainer]
) -> Iterator[Difference]:
    """Yield each container, rule and element in which two listings differ."""
    desired_by_name = {container.name: container for container in desired}
    observed_by_name = {container.name: container for container in observed}
    for name, container in desired_by_name.items():
        counterpart = observed_by_name.get(name)
        if counterpart is not None or container.is_shared:
            yield from _contents(container, counterpart or _emptied(container))
        elif not container.parent or container.parent in observed_by_name:
            yield Difference(f"+ {container.summary}", "add", name, desired=container.content)
    for name, container in observed_by_name.items():
        if name in desired_by_name:
            continue
        if container.is_shared:
            yield from _contents(_emptied(container), container)
        elif not container.parent or container.parent in desired_by_name:
            yield Difference(f"- {container.summary}", "remove", name, observed=container.content)


def _emptied(container: RuleContainer) -> RuleContainer:
    return structs.replace(container, rules=(), elements={})


def _contents(desired: RuleContainer, observed: RuleContainer) -> Iterator[Difference]:
    """Yield the differences inside one container that is in both listings."""
    if desired.properties != observed.properties:
        line = f"~ {desired.name}: {desired.properties}{_was(observed.properties)}"
        yield Difference(line, "change", desired.name, desired.properties, observed.properties)
    if desired.is_filled_by_packets or observed.is_filled_by_packets:
        return
    yield from _elements(desired, observed)
    if desired.rules and not observed.rules and not desired.is_shared:
        line = f"~ {desired.summary}{_was(f'0 {desired.unit}s')}"
        yield Difference(line, "change", desired.name, "\n".join(desired.rules), "")
    elif desired.rules != observed.rules:
        yield from _rules(desired, observed)


def _elements(desired: RuleContainer, observed: RuleContainer) -> Iterator[Difference]:
    for key, text in desired.elements.items():
        observed_text = observed.elements.get(key)
        if observed_text != text:
            yield _entry(desired, text, observed_text)
    for key, text in observed.elements.items():
        if key not in desired.elements and key not in observed.optional:
            yield _entry(observed, None, text)


def _rules(desired: RuleContainer, observed: RuleContainer) -> Iterator[Difference]:
    """Yield the differences of one chain in the order of the observed rules.

    Positions in the desired rules are called left, positions in the observed rules right.
    """
    from kubenetlab.hoststate.rules.alignment import align

    aligned = align(desired.rules, observed.rules)
    kept = [position for position, _ in aligned.kept]
    by_position: list[tuple[int, Difference]] = []
    for left, right in (*aligned.changed, *aligned.moved):
        rules = desired.rules[left], observed.rules[right]
        by_position.append((right, _entry(desired, *rules, left + 1, right + 1)))
    by_position += [
        (right, _entry(desired, None, observed.rules[right], None, right + 1))
        for right in aligned.additional
    ]
    for left in aligned.missing:
        kept_before = bisect_left(kept, left)
        after = aligned.kept[kept_before - 1][1] if kept_before else -1
        by_position.append((after, _entry(desired, desired.rules[left], None, left + 1)))
    yield from (difference for _, difference in sorted(by_position, key=lambda entry: entry[0]))


def _entry(
    container: RuleContainer,
    desired: str | None,
    observed: str | None,
    desired_rule: int | None = None,
    observed_rule: int | None = None,
) -> Difference:
    """Describe one entry that differs."""
    action: Action = "add" if observed is None else "remove" if desired is None else "change"
    remark = ""
    if desired == observed:
        action, remark = "move", f"    (moved: rule {desired_rule}, was: rule {observed_rule})"
    elif action == "change":
        remark = _was(observed)
    sign = {"add": "+", "remove": "-"}.get(action, "~")
    text = observed if desired is None else desired
    line = f"{sign} {container.prefix}{text}{container.suffix}{remark}"
    return Difference(line, action, container.name, desired, observed, desired_rule, observed_rule)


def _was(text: str | None) -> str:
    return f"    (was: {text})"
