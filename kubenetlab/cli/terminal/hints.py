"""The lab that a hint means: after `--lab NAME` the next command is told it, too, where it would find another lab without it."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final

import typer

ENVIRONMENT: Final = "KUBENETLAB_LAB"
_WITHOUT_LAB: Final = ("list", "doctor", "modes", "explain", "schema", "completion")
"""Commands that are about no lab."""
_COMMAND: Final = re.compile(r"kubenetlab (?P<name>[a-z-]+)(?P<rest>.*?)(?=, or kubenetlab | \(|$)")

_asked: ContextVar[str | None] = ContextVar("asked", default=None)
"""The lab that this command was given, when the next one has to be given it, too."""


def remember_lab(context: typer.Context, lab: str | None) -> str | None:
    """The callback of `--lab`. Whether there are other labs is looked at now: a process that has entered a lab sees no other."""
    if lab is not None and _is_typed(context) and (os.environ.get(ENVIRONMENT) or _has_others(lab)):
        _asked.set(lab)
    return lab


def with_lab_option(text: str, lab: str | None = None) -> str:
    """A hint with ` --lab NAME` in each of its commands, where that is needed; before what is passed on to a program."""
    name = lab if lab is not None else _asked.get()
    return text if name is None else _COMMAND.sub(lambda found: _with_lab(found, name), text)


def _with_lab(found: re.Match[str], lab: str) -> str:
    if found["name"] in _WITHOUT_LAB or " --lab " in found["rest"]:
        return found[0]
    ours, dashes, theirs = found["rest"].partition(" -- ")
    return f"kubenetlab {found['name']}{ours} --lab {lab}{dashes}{theirs}"


def _is_typed(context: typer.Context) -> bool:
    """True when the command line says it, and not the environment, which the next command has as well."""
    source = context.get_parameter_source("lab")
    return source is not None and source.name == "COMMANDLINE"


def _has_others(lab: str) -> bool:
    from kubenetlab.errors import KubenetlabError
    from kubenetlab.lab import rundir

    try:
        return any(name != lab and rundir.is_alive(name) for name in rundir.names())
    except KubenetlabError:
        return False  # the command itself says what is wrong with their place
