"""Rules: what a node's own agents load into its namespace, in one dialect or another.

A dialect is a file of this package with the same name: it says what there is as data, and in which words one comes from the old to
the new. What of a namespace is its own, and so may be taken away, it names: tables, or how chains are called.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object

Name = tuple[str, str]
"""(family, table or beginning of a chain's name): what a dialect has to itself in a namespace."""


class RuleObject(Object, frozen=True):
    """The base of what is in rules, in any dialect."""

    hand = "rules"

    @property
    def dialect(self) -> str:
        raise NotImplementedError


class Rules(Struct, frozen=True, dict=True):
    """What one subject needs among the rules, a Service say: one value for all the nodes that have it. Its objects are in no namespace."""

    dialect: str
    family: str
    subject: str
    """`default/web`; unique in its family."""
    objects: tuple[RuleObject, ...]
    shared: tuple[RuleObject, ...] = ()
    """What others may need alike: it is there as long as anybody does."""

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.objects, self.shared)).encode()).digest()

    @cached_property
    def shared_keys(self) -> frozenset[Key]:
        return frozenset(obj.key for obj in self.shared)


class Bundle(RuleObject, frozen=True):
    """Rules on a node: they come and go together, and what changes in them is changed one by one."""

    rank = 130

    rules: Rules

    @property
    def dialect(self) -> str:
        return self.rules.dialect

    @property
    def key(self) -> Key:
        return ("Bundle", self.rules.dialect, self.rules.family, self.rules.subject)

    @property
    def parts(self) -> tuple[Object, ...]:
        return (*self.rules.objects, *self.rules.shared)

    def __str__(self) -> str:
        return f"{self.dialect} objects of {self.rules.family} for {self.rules.subject}: {len(self.rules.objects)}"


class Step(Struct, frozen=True):
    """Words of one dialect, in force as a whole or not at all."""

    dialect: str
    text: str


class Dialect(Protocol):
    """What a dialect's file knows to do. `former` is what was its own before, whether or not it still is.

    With `COMES_LAST` it follows from what the others have made; with `IS_WATCHED` its loader has something to do between the words, too.
    """

    def update(self, old: Sequence[Any], new: Sequence[Any], former: Iterable[Name] = ()) -> str:
        """The words from `old` to `new`; none when there is nothing to do."""

    def replacement(self, objects: Sequence[Any], former: Iterable[Name] = ()) -> str:
        """The words that make `objects` anew, whatever is there now."""

    def names(self, objects: Iterable[Any]) -> tuple[Name, ...]:
        """What of a namespace belongs to these objects."""

    def blamed(self, said: str, objects: Iterable[Any]) -> tuple[Object, Object] | None:
        """The object at which a refusal points, and the one of `objects` whose part it is."""

    def commands(self, objects: Sequence[Any]) -> Iterator[str]:
        """What one would type in the namespace to have these objects where nothing is, each as a whole, with what it reads."""

    def differences(self, wanted: Sequence[Any], listed: Any) -> Iterator[str]:
        """Where a listing of what is its own differs, as lines: `+` is to be added, `-` to be removed, `~` to be changed."""


def dialect(name: str) -> Dialect:
    """The file of that name."""
    return cast(Dialect, importlib.import_module(f"{__package__}.{name}"))


def members(objects: Iterable[Any]) -> Iterator[Any]:
    """The objects, and in place of each bundle those in it."""
    for obj in objects:
        if isinstance(obj, Bundle):
            yield from obj.rules.objects
            yield from obj.rules.shared
        else:
            yield obj


def different(old: Iterable[Any], new: Iterable[Any]) -> tuple[dict[Key, Any], dict[Key, Any]]:
    """The members of both by key, but for the bundles that both have alike."""
    before, after = {obj.key: obj for obj in old}, {obj.key: obj for obj in new}
    alike = {key for key, obj in before.items() if isinstance(obj, Bundle) and after.get(key) == obj}
    changed = [[obj for key, obj in side.items() if key not in alike] for side in (before, after)]
    own, others = ({obj.key: obj for obj in members(side)} for side in changed)
    shared = frozenset[Key]().union(*(obj.rules.shared_keys for side in changed for obj in side if isinstance(obj, Bundle)))
    if shared:
        for key in alike:
            for kept in shared & after[key].rules.shared_keys:
                own.pop(kept, None)
                others.pop(kept, None)
    return own, others


def by_dialect(objects: Iterable[RuleObject]) -> dict[str, list[RuleObject]]:
    """Dialect → its objects, in order."""
    found: dict[str, list[RuleObject]] = {}
    for obj in objects:
        found.setdefault(obj.dialect, []).append(obj)
    return found


def steps(old: Iterable[RuleObject], new: Iterable[RuleObject], former: Mapping[str, Iterable[Name]], *, anew: bool) -> tuple[Step, ...]:
    """What leads from `old` to `new`; with `anew` whatever is there. What comes comes first: no packet meets a node without rules."""
    before, after = by_dialect(old), by_dialect(new)
    found = []
    new_ones = (name for name in after if name not in before)  # another that stays may lose what they take over
    names_in_order = dict.fromkeys((*new_ones, *after, *before, *former))
    for name in sorted(names_in_order, key=lambda name: getattr(dialect(name), "COMES_LAST", False)):
        words = dialect(name)
        mine, own = after.get(name, []), former.get(name, ())
        text = words.replacement(mine, own) if anew else words.update(before.get(name, []), mine, own)
        if text:
            found.append(Step(name, text))
    return tuple(found)


def names(objects: Iterable[RuleObject]) -> dict[str, tuple[Name, ...]]:
    """Dialect → what of a namespace belongs to it."""
    return {name: dialect(name).names(mine) for name, mine in by_dialect(objects).items()}


def digest(objects: Iterable[RuleObject]) -> str:
    """Tells one set of objects from another."""
    told = hashlib.sha256()
    for obj in objects:
        told.update(obj.rules.digest if isinstance(obj, Bundle) else repr(obj).encode())
    return told.hexdigest()
