"""Transactions of all rule backends that lead from the former rules of a namespace to new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from kubenetlab.hoststate.rules.rulesets import (
    DiffCache,
    OwnedName,
    RuleObject,
    RuleT_contra,
    by_backend,
    rule_backend,
)


class Transaction(Struct, frozen=True):
    """Input of one backend's loader, applied atomically as far as the kernel allows."""

    backend: str
    text: str


@runtime_checkable
class CleaningBackend(Protocol[RuleT_contra]):
    """A backend whose old objects can be removed only when no other backend refers to them.

    Its transactions are applied first, and those of `cleanup` last.
    """

    def cleanup(
        self,
        old: Sequence[RuleT_contra],
        new: Sequence[RuleT_contra],
        former: Iterable[OwnedName] = (),
        cache: DiffCache | None = None,
        *,
        anew: bool,
    ) -> str:
        """Return the transaction that removes objects after an update or a replacement (`anew`)."""


def steps(
    old: Iterable[RuleObject],
    new: Iterable[RuleObject],
    former: Mapping[str, Iterable[OwnedName]],
    *,
    anew: bool,
    cache: DiffCache | None = None,
) -> tuple[Transaction, ...]:
    """Return the transactions from `old` to `new`, in order.

    Backends with new objects come first, so that a node is never without rules. Backends without
    objects follow in reverse order.

    former: names in the namespace that each backend owned before.
    anew: replace all existing objects, whatever they are.
    cache: differences of other nodes, to which those of this node are added.
    """
    before, after = by_backend(old), by_backend(new)
    transactions = []
    # A new backend comes before one that stays, which may lose the rules that the new one takes
    # over.
    new_backends = (name for name in after if name not in before)
    backends = dict.fromkeys((*new_backends, *after, *reversed(before), *reversed(tuple(former))))
    for name in sorted(backends, key=phase):
        backend = rule_backend(name)
        objects, former_names = after.get(name, []), former.get(name, ())
        if anew:
            text = backend.replacement(objects, former_names)
        else:
            text = backend.update(before.get(name, []), objects, former_names, cache)
        if text:
            transactions.append(Transaction(name, text))
    for name in backends:
        backend = rule_backend(name)
        if isinstance(backend, CleaningBackend):
            objects, former_names = after.get(name, []), former.get(name, ())
            text = backend.cleanup(before.get(name, []), objects, former_names, cache, anew=anew)
            if text:
                transactions.append(Transaction(name, text))
    return tuple(transactions)


def phase(name: str) -> int:
    """Return the place of a backend among the others: -1, 0 or 1."""
    backend = rule_backend(name)
    return getattr(backend, "COMES_LAST", False) - getattr(backend, "COMES_FIRST", False)
