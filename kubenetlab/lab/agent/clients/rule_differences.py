"""Differences between the rules in namespaces and the desired ones, computed by node agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import (
    DiffCache,
    ExactBackend,
    OwnedName,
    RuleObject,
    by_backend,
    rule_backend,
)
from kubenetlab.hoststate.rules.transactions import Transaction, steps
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.messages.node_agent import CompareRules, ListRules, Node, NodeAgentEvent
from kubenetlab.lab.transport.protocol import RequestFailed
from kubenetlab.lab.transport.rpc import RpcClient

Owned = tuple[tuple[str, tuple[OwnedName, ...]], ...]
"""Rule backends, each with the tables and other containers of rules that it owns."""


class ComparedNamespace(NamedTuple):
    """A namespace whose rules are compared."""

    netns: str
    node: ProcessId
    desired: Sequence[RuleObject]
    former: Mapping[str, tuple[OwnedName, ...]]
    """Rule backend → containers of rules that it owned when rules were loaded last."""


ClientOf = Callable[[str], RpcClient[NodeAgentEvent]]
"""Return the client for the node agent of a namespace."""


async def rule_differences(
    subjects: Iterable[ComparedNamespace], client_of: ClientOf
) -> dict[str, list[Difference]]:
    """Return the differences by namespace.

    Namespaces with the same desired rules share the reference namespace in which those are loaded.
    As many comparisons run at a time as there are processors.
    """
    result: dict[str, list[Difference]] = {}
    cache = DiffCache()
    groups: dict[tuple[tuple[Transaction, ...], Owned], dict[str, ProcessId]] = {}
    for subject in subjects:
        objects, owned = by_backend(subject.desired), _owned_names(subject)
        exact = [name for name in owned if isinstance(rule_backend(name), ExactBackend)]
        result[subject.netns] = [
            difference
            for name in exact
            for difference in await _compare_exactly(
                subject, name, objects.get(name, ()), owned[name], client_of
            )
        ]
        rewritten = {name: names for name, names in owned.items() if name not in exact}
        if rewritten:
            loads = steps(
                (),
                [obj for name in rewritten for obj in objects.get(name, ())],
                {},
                anew=False,
                cache=cache,
            )
            groups.setdefault((loads, tuple(rewritten.items())), {})[subject.netns] = subject.node
    limit = asyncio.Semaphore(len(os.sched_getaffinity(0)))
    for compared in await asyncio.gather(
        *(
            _compare_with_reference(*group, nodes, client_of, limit)
            for group, nodes in groups.items()
        )
    ):
        for netns, differences in compared.items():
            result[netns] += differences
    return result


def _owned_names(subject: ComparedNamespace) -> dict[str, tuple[OwnedName, ...]]:
    """Return what each backend owns: desired containers of rules, then those of a former mode."""
    objects = by_backend(subject.desired)
    owned = {
        name: tuple(
            dict.fromkeys(
                (*rule_backend(name).names(objects.get(name, ())), *subject.former.get(name, ()))
            )
        )
        for name in dict.fromkeys((*objects, *subject.former))
    }
    return {name: names for name, names in owned.items() if names}


async def _compare_exactly(
    subject: ComparedNamespace,
    name: str,
    objects: Sequence[RuleObject],
    owned: Sequence[OwnedName],
    client_of: ClientOf,
) -> list[Difference]:
    """Compare the objects of a backend with its listing, without a reference namespace."""
    request = ListRules(Node(subject.netns, subject.node), name, tuple(owned))
    reply = await client_of(subject.netns).call(request)
    if isinstance(reply, RequestFailed):
        return [_unknown(name, reply.error)]
    exact_backend = cast("ExactBackend[RuleObject, object]", rule_backend(name))
    return list(exact_backend.differences(objects, reply.objects))


async def _compare_with_reference(
    loads: Sequence[Transaction],
    owned: Owned,
    nodes: Mapping[str, ProcessId],
    client_of: ClientOf,
    limit: asyncio.Semaphore,
) -> dict[str, list[Difference]]:
    """Compare namespaces that have the same desired rules with a reference namespace."""
    async with limit:
        request = CompareRules(tuple(loads), dict(owned), dict(nodes))
        reply = await client_of(next(iter(nodes))).call(request)
    if isinstance(reply, RequestFailed):
        return {netns: [_unknown(name, reply.error) for name, _ in owned] for netns in nodes}
    return {
        netns: [
            *compared.differences,
            *(_unknown(name, error) for name, error in compared.errors.items()),
        ]
        for netns, compared in reply.nodes.items()
    }


def _unknown(name: str, error: object) -> Difference:
    """Return the difference that stands for rules that could not be compared."""
    return Difference(f"? {name} rules cannot be compared: {error}", "unknown", f"{name} rules")
