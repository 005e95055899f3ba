"""Differences between the rules of the current namespace and the desired ones, as for `diff`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

import msgspec

from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import OwnedName, RuleObject, by_backend, rule_backend
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.rules.comparison import Compared, compare
from kubenetlab.lab.nodeagent.forked import in_child


def differences(
    desired: Iterable[RuleObject], former: Sequence[OwnedName] = (), name: str = ""
) -> tuple[Difference, ...]:
    """Compare the rules of backends whose programs rewrite them.

    former: names that backend `name` owned before.
    """
    objects = by_backend(desired)
    names = {each: rule_backend(each).names(mine) for each, mine in objects.items()}
    if name:
        names[name] = (*names.get(name, ()), *former)
    transactions = steps((), [obj for mine in objects.values() for obj in mine], {}, anew=False)
    process = ProcessId.of(os.getpid())
    data = asyncio.run(
        in_child(lambda: msgspec.json.encode(compare({"current": process}, transactions, names)))
    )
    compared = msgspec.json.decode(data, type=dict[str, Compared])["current"]
    assert compared.errors == {}
    return compared.differences


def lines(
    desired: Iterable[RuleObject], former: Sequence[OwnedName] = (), name: str = ""
) -> list[str]:
    """Return the differences as `diff` prints them."""
    return [difference.line for difference in differences(desired, former, name)]
