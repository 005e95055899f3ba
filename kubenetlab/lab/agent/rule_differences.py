"""Differences between the rules of namespaces and the desired ones, asked of the node agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import msgspec

from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import (
    ExactBackend,
    Name,
    RuleObject,
    Transaction,
    by_backend,
    dialect,
    steps,
)
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.rules.comparison import Compared
from kubenetlab.lab.transport.frames import Message

Owned = tuple[tuple[str, tuple[Name, ...]], ...]
"""Dialects, with what of a namespace each owns."""


class ComparedNamespace(NamedTuple):
    """The rules of one namespace to be compared."""

    netns: str
    node: ProcessId
    desired: Sequence[RuleObject]
    former: Mapping[str, tuple[Name, ...]]
    """Dialect → what it owned there when rules were loaded last."""


class ComparisonRequest(Protocol):
    """A request to the node agent of a namespace."""

    async def __call__(self, node: str, /, **request: object) -> Message:
        """Return the answer, with `error` where there is none."""


async def rule_differences(
    subjects: Iterable[ComparedNamespace], ask: ComparisonRequest
) -> dict[str, list[Difference]]:
    """Return what differs, by namespace.

    Namespaces with the same desired rules share the reference namespace in which those are loaded.
    As many comparisons run at a time as there are processors.
    """
    found: dict[str, list[Difference]] = {}
    groups: dict[tuple[tuple[Transaction, ...], Owned], dict[str, ProcessId]] = {}
    for subject in subjects:
        objects, owned = by_backend(subject.desired), _owned(subject)
        exact = [name for name in owned if isinstance(dialect(name), ExactBackend)]
        found[subject.netns] = [
            one
            for name in exact
            for one in await _exact(subject, name, objects.get(name, ()), owned[name], ask)
        ]
        rewritten = {name: names for name, names in owned.items() if name not in exact}
        if rewritten:
            loads = steps(
                (), [obj for name in rewritten for obj in objects.get(name, ())], {}, anew=False
            )
            groups.setdefault((loads, tuple(rewritten.items())), {})[subject.netns] = subject.node
    limit = asyncio.Semaphore(len(os.sched_getaffinity(0)))
    for compared in await asyncio.gather(
        *(_compared(*group, nodes, ask, limit) for group, nodes in groups.items())
    ):
        for netns, differences in compared.items():
            found[netns] += differences
    return found


def _owned(subject: ComparedNamespace) -> dict[str, tuple[Name, ...]]:
    """Dialect → what it owns now, then what only an earlier mode owned."""
    objects = by_backend(subject.desired)
    owned = {
        name: tuple(
            dict.fromkeys(
                (*dialect(name).names(objects.get(name, ())), *subject.former.get(name, ()))
            )
        )
        for name in dict.fromkeys((*objects, *subject.former))
    }
    return {name: names for name, names in owned.items() if names}


async def _exact(
    subject: ComparedNamespace,
    name: str,
    objects: Sequence[RuleObject],
    owned: Sequence[Name],
    ask: ComparisonRequest,
) -> list[Difference]:
    """Compare the objects of a dialect with its listing."""
    answer = await ask(
        subject.netns, do="list", netns=subject.netns, node=subject.node, dialect=name, names=owned
    )
    if "error" in answer:
        return [_unknown(name, answer["error"])]
    return list(cast(ExactBackend, dialect(name)).differences(objects, answer["listed"]))


async def _compared(
    loads: Sequence[Transaction],
    owned: Owned,
    nodes: Mapping[str, ProcessId],
    ask: ComparisonRequest,
    limit: asyncio.Semaphore,
) -> dict[str, list[Difference]]:
    """Compare namespaces that have the same desired rules, by their listings."""
    async with limit:
        request = {
            "steps": [msgspec.to_builtins(step) for step in loads],
            "names": dict(owned),
            "nodes": nodes,
        }
        answer = await ask(next(iter(nodes)), do="compare", **request)
    if "error" in answer:
        return {netns: [_unknown(name, answer["error"]) for name, _ in owned] for netns in nodes}
    outcomes = msgspec.convert(answer["compared"], dict[str, Compared])
    return {
        netns: [
            *outcome.differences,
            *(_unknown(name, error) for name, error in outcome.errors.items()),
        ]
        for netns, outcome in outcomes.items()
    }


def _unknown(name: str, error: object) -> Difference:
    """Say that rules could not be compared."""
    return Difference(f"? {name} rules cannot be compared: {error}", "unknown", f"{name} rules")
