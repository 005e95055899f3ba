"""Comparison of the rules in namespaces with the desired ones, by the listings of the kernel.

The programs that load rules rewrite them: spellings, order of options and defaults differ. So the
desired rules are loaded into a reference namespace, by the same programs and the same kernel, and
its listing is compared with those of the namespaces that should have the same rules. The reference
namespace ends with the process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import cast

from msgspec import Struct

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules.listing import Difference, differences
from kubenetlab.hoststate.rules.rulesets import OwnedName, RewritingBackend, rule_backend
from kubenetlab.hoststate.rules.transactions import Transaction
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.rules.backends import RulesError, open_loader
from kubenetlab.kernel.syscalls import CLONE_NEWNET, open_namespace, unshare

Names = Mapping[str, Sequence[OwnedName]]
"""Rule backend → names in a namespace that belong to the lab."""


class Compared(Struct, frozen=True, omit_defaults=True):
    """Result of a comparison."""

    differences: tuple[Difference, ...] = ()
    errors: Mapping[str, str] = {}
    """Rule backend that could not be compared → reason."""


class _Listings(Struct):
    """Listings of one namespace by rule backend, and the reasons for missing ones."""

    texts: dict[str, object]
    errors: dict[str, str]


def compare(
    nodes: Mapping[str, ProcessId], steps: Sequence[Transaction], names: Names
) -> dict[str, Compared]:
    """Compare the rules of nodes with those that the steps load; return the results by node.

    nodes: name of a node's namespace → pause process of the node. Namespaces are only read.

    The calling process is in another network namespace afterwards, so give it a process of its own.
    Raises OSError if no namespace can be created.
    """
    unshare(CLONE_NEWNET)
    desired = _list(steps, names)
    return {
        netns: _compare(_list_node(node, names), desired, names) for netns, node in nodes.items()
    }


def _compare(observed: _Listings, desired: _Listings, names: Names) -> Compared:
    errors = {**observed.errors, **desired.errors}
    result: list[Difference] = []
    for name in names:
        if name not in errors and observed.texts[name] != desired.texts[name]:
            backend = cast("RewritingBackend[object]", rule_backend(name))
            sides = (
                backend.containers(side.texts[name], names[name]) for side in (desired, observed)
            )
            result += differences(*sides)
    return Compared(tuple(result), errors)


def _list_node(node: ProcessId, names: Names) -> _Listings:
    """List the rules in the namespace of a process."""
    home = open_namespace("net")
    with ExitStack() as stack:
        stack.callback(os.close, home)
        try:
            process = Process(node)
            stack.callback(process.close)
            stack.enter_context(process.network(home))
        except OSError as error:
            return _Listings(
                {}, dict.fromkeys(names, f"its namespace is gone: {error.strerror or error}")
            )
        return _list((), names)


def _list(steps: Sequence[Transaction], names: Names) -> _Listings:
    """Load rules into the current namespace, and list them."""
    listings = _Listings({}, {})
    with ExitStack() as stack:
        loaders = {}
        for name in names:
            try:
                loaders[name] = stack.enter_context(closing(open_loader(name)))
            except RequirementError as error:
                listings.errors[name] = str(error)
        for step in steps:
            try:
                if step.backend not in listings.errors:
                    loaders[step.backend].run(step.text)
            except (RulesError, RequirementError) as error:
                listings.errors[step.backend] = (
                    f"the desired rules cannot be loaded for comparison: {error}"
                )
        for name in names:
            try:
                if name not in listings.errors:
                    listings.texts[name] = loaders[name].listed(names[name])
            except (RulesError, RequirementError) as error:
                listings.errors[name] = str(error)
    return listings
