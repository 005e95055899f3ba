"""Rules: what a node's own agents load into its namespace, in one dialect or another.

A dialect is a file of this package with the same name: it says what there is as data, and in which words one comes from the old to
the new. What of a namespace is its own, and so may be taken away, it names: tables, or how chains are called.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import Difference, RuleContainer
from kubenetlab.versioned import VersionedMap

T = TypeVar("T")

Name = tuple[str, str]
"""(family, table or beginning of a chain's name): what a dialect has to itself in a namespace."""


Subject = tuple[str, str]
"""(family, `default/web`)"""


class RuleObject(Object, frozen=True):
    """The base of what is in rules, in any dialect."""

    hand = "rules"

    @property
    @abstractmethod
    def dialect(self) -> str:
        """In whose words it is said."""


class Rules(Struct, frozen=True, dict=True):
    """What one subject needs among the rules, a Service say: one value for all the nodes that have it. Its objects are in no namespace."""

    dialect: str
    family: str
    subject: str
    """`default/web`; unique in its family."""
    objects: tuple[RuleObject, ...]
    shared: tuple[RuleObject, ...] = ()
    """What others may need alike: it is there as long as anybody does."""

    @property
    def whose(self) -> Subject:
        return self.family, self.subject

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.objects, self.shared)).encode()).digest()

    @cached_property
    def shared_keys(self) -> frozenset[Key]:
        return frozenset(obj.key for obj in self.shared)


class ChangedSubjects(NamedTuple):
    """Whose rules are not the same."""

    gone: list[Rules]
    come: list[Rules]
    changed: list[tuple[Rules, Rules]]


class RuleSet(Struct, frozen=True, dict=True):
    """The rules of many subjects in one dialect: one value for all the nodes that have the same.

    What is asked of it is computed from what it was of the set before, where that has been asked.
    """

    dialect: str
    by_subject: VersionedMap[Subject, Rules]

    @property
    def rules(self) -> Iterable[Rules]:
        """Subject by subject, in order."""
        return self.by_subject.values()

    @cached_property
    def shared(self) -> Mapping[Key, int]:
        """By how many each object is needed that several may need alike."""
        return Counter(key for rules in self.rules for key in rules.shared_keys)

    @cached_property
    def total(self) -> int:
        """The sum of the subjects' digests: nothing hangs on their order."""
        return sum(int.from_bytes(rules.digest) for rules in self.rules)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(str(self.total).encode()).digest()

    def with_changes(self, changes: Mapping[Subject, Rules | None]) -> RuleSet:
        """The set with other rules for some subjects; None for one that has none any more."""
        after = RuleSet(self.dialect, self.by_subject.with_changes(changes))
        if after.by_subject is self.by_subject:
            return self
        pairs = after.by_subject.news(self.by_subject).values()
        gone, come = (
            [rules for rules in side if rules is not None] for side in zip(*pairs, strict=True)
        )
        known = self.__dict__
        if "total" in known:
            after.__dict__["total"] = self.total + sum(
                sign * int.from_bytes(rules.digest)
                for sign, some in ((-1, gone), (1, come))
                for rules in some
            )
        if "shared" in known:
            counted = Counter(self.shared)
            counted.subtract(key for rules in gone for key in rules.shared_keys)
            counted.update(key for rules in come for key in rules.shared_keys)
            after.__dict__["shared"] = +counted
        return after

    def since(self, old: RuleSet) -> ChangedSubjects:
        """What differs from another set; nodes that share both share the answer."""
        if not self.by_subject:
            return _differing(self.by_subject.news(old.by_subject).values())
        if self._answers.get("old") is not old:
            old._answers.clear()  # or every set would keep the one before
            self._answers.clear()
            self._answers.update(
                old=old, found=_differing(self.by_subject.news(old.by_subject).values())
            )
        found: ChangedSubjects = self._answers["found"]
        return found

    def words_since(self, old: RuleSet, say: Callable[[], T]) -> T:
        """What is said of that in some words; it is put together once, too."""
        if not self.by_subject:
            return say()
        self.since(old)
        if "words" not in self._answers:
            self._answers["words"] = say()
        found: T = self._answers["words"]
        return found

    @cached_property
    def _answers(self) -> dict[str, Any]:
        return {}


def _differing(pairs: Iterable[tuple[Rules | None, Rules | None]]) -> ChangedSubjects:
    found = ChangedSubjects([], [], [])
    for before, after in pairs:
        if after is None:
            found.gone.extend(filter(None, (before,)))
        elif before is None:
            found.come.append(after)
        elif before != after:
            found.changed.append((before, after))
    return found


class NodeRules(RuleObject, frozen=True):
    """A set of rules on a node: what changes in it is changed one by one."""

    rank = 130

    rules: RuleSet

    @property
    def dialect(self) -> str:
        return self.rules.dialect

    @property
    def key(self) -> Key:
        return ("NodeRules", self.rules.dialect)

    @property
    def parts(self) -> tuple[Object, ...]:
        return tuple(obj for rules in self.rules.rules for obj in (*rules.objects, *rules.shared))

    def __str__(self) -> str:
        return f"{self.dialect} rules of {len(self.rules.by_subject)} subjects"


class Transaction(Struct, frozen=True):
    """Words of one dialect, in force as a whole or not at all, if the kernel takes so many at once."""

    dialect: str
    text: str


class RuleBackend(Protocol):
    """What a dialect's file knows to do. `former` is what was its own before, whether or not it still is.

    With `COMES_LAST` it follows from what the others have made; with `IS_WATCHED` its loader has something to do between the words, too.
    """

    def update(self, old: Sequence[Any], new: Sequence[Any], former: Iterable[Name] = ()) -> str:
        """The words from `old` to `new`; none when there is nothing to do."""

    def replacement(self, objects: Sequence[Any], former: Iterable[Name] = ()) -> str:
        """The words that make `objects` anew, whatever is there now."""

    def names(self, objects: Iterable[Any]) -> tuple[Name, ...]:
        """What of a namespace belongs to these objects."""

    def failed_object(self, said: str, objects: Iterable[Any]) -> tuple[Object, Object] | None:
        """The object at which a refusal points, and the one of `objects` whose part it is."""

    def commands(self, objects: Sequence[Any]) -> Iterator[str]:
        """What one would type in the namespace to have these objects where nothing is, each as a whole, with what it reads."""


class RewritingBackend(Protocol):
    """A dialect whose programs rewrite the rules that they load.

    Objects and listings do not compare. The desired listing is made by the same programs, in a
    reference namespace into which the desired rules are loaded.
    """

    def containers(self, listed: Any, names: Sequence[Name]) -> Iterator[RuleContainer]:
        """Read a listing that the loader of this dialect made of `names`; nothing else is ours."""


@runtime_checkable
class ExactBackend(Protocol):
    """A dialect whose kernel listing follows from the objects alone."""

    def differences(self, objects: Sequence[Any], listed: Any) -> Iterator[Difference]:
        """Compare the objects with a listing that the loader of this dialect made."""


def dialect(name: str) -> RuleBackend:
    """The file of that name."""
    return cast(RuleBackend, importlib.import_module(f"{__package__}.{name}"))


def members(objects: Iterable[Any]) -> Iterator[Any]:
    """The objects, and in place of each bundle those in it."""
    for obj in objects:
        if isinstance(obj, NodeRules):
            yield from obj.parts
        else:
            yield obj


class RulesDiff(NamedTuple):
    """How two lists of objects of one dialect differ: single objects by their keys, and whose rules are not the same."""

    before: dict[Key, Any]
    after: dict[Key, Any]
    gone: list[Rules]
    come: list[Rules]
    changed: list[tuple[Rules, Rules]]
    is_kept: Callable[[Key], bool]
    """True for an object that rules share which both sides have alike."""
    sets: tuple[RuleSet, RuleSet]
    """All rules of both sides."""

    def once(self, say: Callable[[], T]) -> T:
        """What is said of it. Where nothing differs but rules that nodes share, they share what is said of them."""
        had, has = self.sets
        return has.words_since(had, say) if self.before == self.after else say()


def delta(old: Iterable[Any], new: Iterable[Any]) -> RulesDiff:
    """What is not alike; single objects are all there."""
    (before, had), (after, has) = _sorted_out(old), _sorted_out(new)
    found = has.since(had)
    return RulesDiff(before, after, *found, _Kept(has, found), (had, has))


class _Kept:
    """Whether somebody whose rules are on both sides shares an object."""

    def __init__(self, has: RuleSet, found: ChangedSubjects) -> None:
        self._has = has
        self._found = found

    def __call__(self, key: Key) -> bool:
        return self._has.shared.get(key, 0) > self._others[key]

    @cached_property
    def _others(self) -> Counter[Key]:
        new_ones = (*self._found.come, *(pair[1] for pair in self._found.changed))
        return Counter(key for rules in new_ones for key in rules.shared_keys)


def different(old: Iterable[Any], new: Iterable[Any]) -> tuple[dict[Key, Any], dict[Key, Any]]:
    """The members of both by key, but for the rules that both have alike."""
    return compared(delta(old, new))


def compared(found: RulesDiff) -> tuple[dict[Key, Any], dict[Key, Any]]:
    """The members of both sides by key. What is shared with rules that are kept is on neither."""
    removed, added = (
        [*found.gone, *(pair[0] for pair in found.changed)],
        [*found.come, *(pair[1] for pair in found.changed)],
    )
    before = found.before | {
        obj.key: obj for rules in removed for obj in (*rules.objects, *rules.shared)
    }
    after = found.after | {
        obj.key: obj for rules in added for obj in (*rules.objects, *rules.shared)
    }
    shared, shared_now = (
        frozenset[Key]().union(*(rules.shared_keys for rules in side)) for side in (removed, added)
    )
    for key in filter(found.is_kept, shared ^ shared_now):
        before.pop(key, None)
        after.pop(key, None)
    return before, after


def _sorted_out(objects: Iterable[Any]) -> tuple[dict[Key, Any], RuleSet]:
    """Single objects by key, and the set of rules; a namespace has one of each dialect, or none."""
    single: dict[Key, Any] = {}
    found = NO_RULES
    for obj in objects:
        if isinstance(obj, NodeRules):
            found = obj.rules
        else:
            single[obj.key] = obj
    return single, found


NO_RULES = RuleSet("", VersionedMap())


def by_backend(objects: Iterable[RuleObject]) -> dict[str, list[RuleObject]]:
    """Dialect → its objects, in order."""
    found: dict[str, list[RuleObject]] = {}
    for obj in objects:
        found.setdefault(obj.dialect, []).append(obj)
    return found


def steps(
    old: Iterable[RuleObject],
    new: Iterable[RuleObject],
    former: Mapping[str, Iterable[Name]],
    *,
    anew: bool,
) -> tuple[Transaction, ...]:
    """What leads from `old` to `new`; with `anew` whatever is there. What comes comes first: no packet meets a node without rules.

    What goes goes in the reverse order of its coming: a set last, which rules have named.
    """
    before, after = by_backend(old), by_backend(new)
    found = []
    new_ones = (
        name for name in after if name not in before
    )  # another that stays may lose what they take over
    names_in_order = dict.fromkeys((*new_ones, *after, *reversed(before), *reversed(tuple(former))))
    for name in sorted(
        names_in_order, key=lambda name: getattr(dialect(name), "COMES_LAST", False)
    ):
        words = dialect(name)
        mine, own = after.get(name, []), former.get(name, ())
        text = (
            words.replacement(mine, own) if anew else words.update(before.get(name, []), mine, own)
        )
        if text:
            found.append(Transaction(name, text))
    return tuple(found)


def names(objects: Iterable[RuleObject]) -> dict[str, tuple[Name, ...]]:
    """Dialect → what of a namespace belongs to it."""
    return {name: dialect(name).names(mine) for name, mine in by_backend(objects).items()}


def digest(objects: Iterable[RuleObject]) -> str:
    """Tells one set of objects from another; their order, which depends on what was there before, is not part of it."""
    told = sorted(
        obj.rules.digest if isinstance(obj, NodeRules) else repr(obj).encode() for obj in objects
    )
    return hashlib.sha256(b"\0".join(told)).hexdigest()
