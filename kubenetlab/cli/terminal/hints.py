"""Hints: whether they are printed, and which lab their commands name.

`--lab NAME` is added to the command of a hint if the command would select another lab without it.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final

import typer

ENVIRONMENT: Final = "KUBENETLAB_LAB"
NO_HINTS: Final = "KUBENETLAB_NO_HINTS"
"""Environment variable that turns hints off if it is not empty."""
_COMMANDS_WITHOUT_LAB: Final = ("list", "doctor", "modes", "explain", "schema", "completion")
"""Commands that need no lab."""
_COMMAND: Final = re.compile(r"kubenetlab (?P<name>[a-z-]+)(?P<rest>.*?)(?=, or kubenetlab | \(|$)")

_lab_for_hints: ContextVar[str | None] = ContextVar("lab_for_hints", default=None)
"""Lab given with --lab, if the next command needs the option as well; otherwise None."""


def remember_lab(context: typer.Context, lab: str | None) -> str | None:
    """Remember the value of `--lab` for hints; callback of the option.

    Other labs are looked up now, because a process inside a lab's namespaces does not see them.
    """
    if lab is not None and _is_typed(context) and (os.environ.get(ENVIRONMENT) or _has_others(lab)):
        _lab_for_hints.set(lab)
    return lab


def are_enabled() -> bool:
    """Return True unless the environment turns hints off."""
    return not os.environ.get(NO_HINTS)


def with_lab_option(text: str, lab: str | None = None) -> str:
    """Return a hint with ` --lab NAME` in each command that needs it, before any `--`.

    lab: name to add; by default the remembered one.
    """
    name = lab if lab is not None else _lab_for_hints.get()
    return text if name is None else _COMMAND.sub(lambda match: _with_lab(match, name), text)


def _with_lab(match: re.Match[str], lab: str) -> str:
    if match["name"] in _COMMANDS_WITHOUT_LAB or " --lab " in match["rest"]:
        return match[0]
    arguments, dashes, program = match["rest"].partition(" -- ")
    return f"kubenetlab {match['name']}{arguments} --lab {lab}{dashes}{program}"


def _is_typed(context: typer.Context) -> bool:
    """Return True if the option is on the command line; the environment applies to hints too."""
    source = context.get_parameter_source("lab")
    return source is not None and source.name == "COMMANDLINE"


def _has_others(lab: str) -> bool:
    from kubenetlab.errors import KubenetlabError
    from kubenetlab.lab import rundir

    try:
        return any(name != lab and rundir.is_alive(name) for name in rundir.lab_names())
    except KubenetlabError:
        return False  # the command itself reports an invalid run directory
