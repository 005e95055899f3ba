"""Rules that the node agent loads into a node's namespace, and the interface of rule backends.

A rule backend is a module of this package; objects refer to it by its name (`backend`). It defines
rule objects, renders the transaction from old to new objects, and lists the names (tables, prefixes
of chain names) that belong to it in a namespace and may be removed.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import (
    Final,
    Generic,
    NamedTuple,
    Never,
    Protocol,
    TypeVar,
    cast,
    overload,
    runtime_checkable,
)

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import Difference, RuleContainer
from kubenetlab.versioned import VersionedMap

OwnedName = tuple[str, str]
"""Family, and a table or a prefix of chain names: a part of a namespace owned by a backend."""


Subject = tuple[str, str]
"""Family, and name of a subject: `default/web`."""


class RuleObject(Object, frozen=True):
    """Base class of the objects of all rule backends."""

    applier = "rules"

    @property
    @abstractmethod
    def backend(self) -> str:
        """Name of the rule backend."""


RuleT = TypeVar("RuleT", bound=RuleObject)
RuleT_co = TypeVar("RuleT_co", bound=RuleObject, covariant=True)
RuleT_contra = TypeVar("RuleT_contra", bound=RuleObject, contravariant=True)
"""Rule objects of one backend, such as `IptablesChain | ChainEntry | Jump`."""
ListingT_contra = TypeVar("ListingT_contra", contravariant=True)
"""Listing that the loader of one backend makes."""


class SubjectRules(Struct, Generic[RuleT_co], frozen=True, dict=True):
    """Rule objects of one subject, such as a Service; all nodes that need them share one value.

    The objects have an empty `netns`.
    """

    backend: str
    family: str
    subject: str
    """`default/web`; unique in its family."""
    objects: tuple[RuleT_co, ...]
    shared: tuple[RuleT_co, ...] = ()
    """Objects that several subjects may need; they exist as long as any of them does."""

    @property
    def key(self) -> Subject:
        """Key of the subject."""
        return self.family, self.subject

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.objects, self.shared)).encode()).digest()

    @cached_property
    def shared_keys(self) -> frozenset[Key]:
        return frozenset(obj.key for obj in self.shared)

    def owned_names(
        self: SubjectRules[RuleT], names_of: Callable[[Iterable[RuleT]], tuple[OwnedName, ...]]
    ) -> tuple[OwnedName, ...]:
        """Return `names_of` all objects, which is called once.

        names_of: function of the rule backend.
        """
        if "names" not in self.__dict__:
            self.__dict__["names"] = names_of((*self.objects, *self.shared))
        names: tuple[OwnedName, ...] = self.__dict__["names"]
        return names


class ChangedSubjects(NamedTuple, Generic[RuleT]):
    """Rules of the subjects in which two rule sets differ; changed ones as (old, new)."""

    removed: list[SubjectRules[RuleT]]
    added: list[SubjectRules[RuleT]]
    changed: list[tuple[SubjectRules[RuleT], SubjectRules[RuleT]]]


class RuleSet(Struct, Generic[RuleT_co], frozen=True, dict=True):
    """Rules of many subjects for one backend; nodes that have the same rules share one value.

    Totals are updated from those of the previous set, if they have been computed there.
    """

    backend: str
    by_subject: VersionedMap[Subject, SubjectRules[RuleT_co]]

    @property
    def rules(self) -> Iterable[SubjectRules[RuleT_co]]:
        """Rules of each subject, in order."""
        return self.by_subject.values()

    @cached_property
    def shared(self) -> Mapping[Key, int]:
        """Number of subjects that need each shared object."""
        return Counter(key for rules in self.rules for key in rules.shared_keys)

    @cached_property
    def total(self) -> int:
        """Sum of the digests of all subjects, which does not depend on their order."""
        return sum(int.from_bytes(rules.digest) for rules in self.rules)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(str(self.total).encode()).digest()

    def owned_names(
        self: RuleSet[RuleT], names_of: Callable[[Iterable[RuleT]], tuple[OwnedName, ...]]
    ) -> tuple[OwnedName, ...]:
        """Return the names of all subjects; they are collected once.

        names_of: function of the rule backend, which is called once for each subject.
        """
        if "names" not in self.__dict__:
            of_subjects = (name for rules in self.rules for name in rules.owned_names(names_of))
            self.__dict__["names"] = tuple(dict.fromkeys(of_subjects))
        names: tuple[OwnedName, ...] = self.__dict__["names"]
        return names

    def with_changes(
        self: RuleSet[RuleT], changes: Mapping[Subject, SubjectRules[RuleT] | None]
    ) -> RuleSet[RuleT]:
        """Return a copy with changed rules for some subjects; None removes a subject's rules."""
        result = RuleSet(self.backend, self.by_subject.with_changes(changes))
        if result.by_subject is self.by_subject:
            return self
        pairs = result.by_subject.changes_since(self.by_subject).values()
        removed, added = (
            [rules for rules in side if rules is not None] for side in zip(*pairs, strict=True)
        )
        cached = self.__dict__
        if "total" in cached:
            result.__dict__["total"] = self.total + sum(
                sign * int.from_bytes(rules.digest)
                for sign, rules_list in ((-1, removed), (1, added))
                for rules in rules_list
            )
        if "shared" in cached:
            counts = Counter(self.shared)
            counts.update(key for rules in added for key in rules.shared_keys)
            counts.subtract(key for rules in removed for key in rules.shared_keys)
            for key in frozenset().union(*(rules.shared_keys for rules in removed)):
                if not counts[key]:
                    del counts[key]
            result.__dict__["shared"] = counts
        return result


RuleSets = Mapping[str, RuleSet[RuleT]]
"""Rule sets of one backend in one namespace, by the component that owns them."""

_NO_RULES: Final[RuleSet[Never]] = RuleSet("", VersionedMap())


class RuleSetsDiff(Generic[RuleT]):
    """Difference between rule sets, and the transaction that was rendered from it."""

    def __init__(self, old: RuleSets[RuleT], new: RuleSets[RuleT]) -> None:
        self.sets: Final = old, new
        self.changes: Final = _changed_subjects(
            pair
            for owner in dict.fromkeys((*old, *new))
            for pair in new.get(owner, _NO_RULES)
            .by_subject.changes_since(old.get(owner, _NO_RULES).by_subject)
            .values()
        )
        self._rendered: tuple[str | None] | None = None

    def render(self, render: Callable[[], str | None]) -> str | None:
        """Return the result of `render`, which is called once."""
        if self._rendered is None:
            self._rendered = (render(),)
        return self._rendered[0]


class DiffCache:
    """Differences that have been computed, for nodes that share the old and the new rule set.

    The caller holds it while it changes the rules of several nodes. It keeps all these rule sets
    alive, so the caller drops it afterwards.
    """

    def __init__(self) -> None:
        self._diffs: dict[tuple[tuple[str, int], ...], RuleSetsDiff[RuleObject]] = {}
        """Differences by the identity of all sets, which they reference."""

    def diff(self, old: RuleSets[RuleT], new: RuleSets[RuleT]) -> RuleSetsDiff[RuleT]:
        """Return the difference from `old` to `new`."""
        key = tuple(
            (f"{side} {owner}", id(rules))
            for side, sets in (("old", old), ("new", new))
            for owner, rules in sets.items()
        )
        if (known := self._diffs.get(key)) is not None:
            return cast("RuleSetsDiff[RuleT]", known)  # of the same sets, so of the same type
        result = RuleSetsDiff(old, new)
        self._diffs[key] = cast("RuleSetsDiff[RuleObject]", result)
        return result


def _changed_subjects(
    pairs: Iterable[tuple[SubjectRules[RuleT] | None, SubjectRules[RuleT] | None]],
) -> ChangedSubjects[RuleT]:
    result: ChangedSubjects[RuleT] = ChangedSubjects([], [], [])
    for before, after in pairs:
        if after is None:
            result.removed.extend(filter(None, (before,)))
        elif before is None:
            result.added.append(after)
        elif before != after:
            result.changed.append((before, after))
    return result


class NodeRules(RuleObject, Generic[RuleT_co], frozen=True):
    """Rule set of a node. When it changes, only the rules of changed subjects are loaded."""

    rank = 130

    rules: RuleSet[RuleT_co]
    owner: str = ""
    """Component that the rules belong to; each has at most one set for a backend."""

    @property
    def backend(self) -> str:
        return self.rules.backend

    @property
    def key(self) -> Key:
        return ("NodeRules", self.rules.backend, self.owner)

    @property
    def parts(self) -> tuple[RuleT_co, ...]:
        return tuple(obj for rules in self.rules.rules for obj in (*rules.objects, *rules.shared))

    def __str__(self) -> str:
        return f"{self.backend} rules of {len(self.rules.by_subject)} subjects"


class RuleBackend(Protocol[RuleT_contra]):
    """Functions of a rule backend's module for its objects, single ones and `NodeRules`.

    `former` are the names that the backend owned before, whether or not it still owns them. A
    module may define `COMES_FIRST` or `COMES_LAST` (its transaction is applied before or after
    those of the other backends) and `IS_WATCHED` (its loader also works between transactions).
    """

    def update(
        self,
        old: Sequence[RuleT_contra],
        new: Sequence[RuleT_contra],
        former: Iterable[OwnedName] = (),
        cache: DiffCache | None = None,
    ) -> str:
        """Return the transaction from `old` to `new`; empty if nothing has to be done.

        cache: differences of other nodes.
        """

    def replacement(self, objects: Sequence[RuleT_contra], former: Iterable[OwnedName] = ()) -> str:
        """Return the transaction that replaces all existing objects by `objects`."""

    def names(self, objects: Iterable[RuleT_contra]) -> tuple[OwnedName, ...]:
        """Return the names in a namespace that belong to these objects."""

    def failed_object(
        self, message: str, objects: Iterable[RuleT_contra]
    ) -> tuple[Object, Object] | None:
        """Return the object that caused an error, and the one of `objects` that contains it.

        message: error message of the loader. Return None if it does not identify an object.
        """

    def commands(self, objects: Sequence[RuleT_contra]) -> Iterator[str]:
        """Yield shell commands, with their input, that create the objects in a new namespace."""


class RewritingBackend(Protocol[ListingT_contra]):
    """A backend whose programs rewrite the rules that they load.

    Objects and listings cannot be compared. The desired listing comes from the same programs, in a
    reference namespace into which the desired rules are loaded.
    """

    def containers(
        self, listed: ListingT_contra, names: Sequence[OwnedName]
    ) -> Iterator[RuleContainer]:
        """Yield the containers of a listing that the loader of this backend made of `names`."""


@runtime_checkable
class ExactBackend(Protocol[RuleT_contra, ListingT_contra]):
    """A backend whose kernel listing follows from the objects alone."""

    def differences(
        self, objects: Sequence[RuleT_contra], listed: ListingT_contra
    ) -> Iterator[Difference]:
        """Compare the objects with a listing that the loader of this backend made."""


def rule_backend(name: str) -> RuleBackend[RuleObject]:
    """Return the rule backend of that name. It accepts only its own objects; see `by_backend`."""
    return cast("RuleBackend[RuleObject]", importlib.import_module(f"{__package__}.{name}"))


@overload
def members(objects: Iterable[RuleT | NodeRules[RuleT]]) -> Iterator[RuleT]: ...


@overload
def members(objects: Iterable[Object]) -> Iterator[Object]: ...


def members(objects: Iterable[Object]) -> Iterator[Object]:
    """Yield the objects, with each NodeRules replaced by the objects that it contains."""
    for obj in objects:
        if isinstance(obj, NodeRules):
            yield from obj.parts
        else:
            yield obj


def owned_names(
    objects: Iterable[RuleT | NodeRules[RuleT]],
    names_of: Callable[[Iterable[RuleT]], tuple[OwnedName, ...]],
) -> tuple[OwnedName, ...]:
    """Return the names of objects of one backend, each once.

    names_of: function of the rule backend for single objects.
    """
    names = (
        name
        for obj in objects
        for name in (
            obj.rules.owned_names(names_of) if isinstance(obj, NodeRules) else names_of((obj,))
        )
    )
    return tuple(dict.fromkeys(names))


def by_backend(objects: Iterable[RuleObject]) -> dict[str, list[RuleObject]]:
    """Return the objects of each backend by its name, in order."""
    by_name: dict[str, list[RuleObject]] = {}
    for obj in objects:
        by_name.setdefault(obj.backend, []).append(obj)
    return by_name


def names(objects: Iterable[RuleObject]) -> dict[str, tuple[OwnedName, ...]]:
    """Return the names in a namespace that belong to each backend."""
    return {
        backend: rule_backend(backend).names(objs) for backend, objs in by_backend(objects).items()
    }


def digest(objects: Iterable[RuleObject]) -> str:
    """Return a digest of the objects that does not depend on their order.

    The order depends on earlier states.
    """
    digests = sorted(
        obj.rules.digest if isinstance(obj, NodeRules) else repr(obj).encode() for obj in objects
    )
    return hashlib.sha256(b"\0".join(digests)).hexdigest()
