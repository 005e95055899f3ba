"""Comparison of a namespace's rules with the desired ones, by the listings of two namespaces.

The programs that load rules rewrite them: other spellings, other order of options, defaults added or
left out. So the desired rules are loaded into a reference namespace, by the same programs and the
same kernel, and the listings of both namespaces are compared. The reference namespace ends with the
process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, cast

from msgspec import Struct

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.listing import Difference, differences
from kubenetlab.hoststate.rules import Name, Rewritten, Step, dialect
from kubenetlab.kernel.rules import RulesError, open_here
from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns, unshare

Names = Mapping[str, Sequence[Name]]
"""Dialect → what of a namespace is ours."""


class Compared(Struct, frozen=True, omit_defaults=True):
    """The outcome of a comparison."""

    differences: tuple[Difference, ...] = ()
    errors: Mapping[str, str] = {}
    """Dialect that could not be compared → the reason."""


def compare(netns: int, steps: Sequence[Step], names: Names) -> Compared:
    """Compare the rules of a namespace with those that the steps make.

    netns: descriptor of the namespace. It is only read.
    The calling process is in another network namespace afterwards, so give it a process of its own.
    Raises OSError where a namespace cannot be entered or made.
    """
    errors: dict[str, str] = {}
    setns(netns, CLONE_NEWNET)
    observed = _listings((), names, errors)
    unshare(CLONE_NEWNET)
    desired = _listings(steps, names, errors)
    found: list[Difference] = []
    for name in names:
        if name not in errors and observed[name] != desired[name]:
            words = cast(Rewritten, dialect(name))
            sides = (words.containers(listed[name], names[name]) for listed in (desired, observed))
            found += differences(*sides)
    return Compared(tuple(found), errors)


def _listings(steps: Sequence[Step], names: Names, errors: dict[str, str]) -> dict[str, Any]:
    """Load rules into the current namespace; return dialect → its listing. What fails is added to `errors`."""
    listings: dict[str, Any] = {}
    with ExitStack() as stack:
        loaders = {}
        for name in names:
            try:
                loaders[name] = stack.enter_context(closing(open_here(name)))
            except RequirementError as error:
                errors[name] = str(error)
        for step in steps:
            try:
                if step.dialect not in errors:
                    loaders[step.dialect].run(step.text)
            except RulesError as error:
                errors[step.dialect] = f"the desired rules cannot be loaded for comparison: {error}"
        for name in names:
            try:
                if name not in errors:
                    listings[name] = loaders[name].listed(names[name])
            except RulesError as error:
                errors[name] = str(error)
    return listings
