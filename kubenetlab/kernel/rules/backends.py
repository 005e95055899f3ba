"""Rules in a namespace, dialect by dialect: each has a file here that loads what the file of the same name in hoststate/ says."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

from kubenetlab.hoststate.rules.rulesets import Name


class RulesError(Exception):
    """What was said about words of a dialect; nothing of them was done."""


class Loader(Protocol):
    """One dialect in the namespace in which the object was made."""

    def run(self, text: str) -> str:
        """Brings words of `update` or `replacement` into force, all or none; in several parts where the kernel does not take so much at once
        from an ordinary user. What it prints. Raises RulesError."""

    def listed(self, names: Sequence[Name]) -> Any:
        """What is there of these names, for `differences`: nothing but what JSON has."""

    def text(self) -> str:
        """All that is there, as the dialect's own program prints it."""

    def close(self) -> None: ...


@runtime_checkable
class WatchingLoader(Protocol):
    """A loader that goes on working between the words it is given; it stays open as long as its namespace is there."""

    def fileno(self) -> int:
        """What is readable when there is something to hear."""

    def heard(self) -> None:
        """Does what that asks for."""


@runtime_checkable
class MaintainedLoader(Protocol):
    """A loader that has something to do after a change, when its time has come; it stays open, too."""

    def tend(self) -> None:
        """Does what is due by now. Raises RulesError, or OSError where its namespace is gone."""


@runtime_checkable
class ComparingLoader(Protocol):
    """A loader that looks by itself whether what it has loaded is still there; it stays open, too."""

    def was_touched(self) -> bool:
        """True when somebody else has changed something of it, as far as it has looked by now. Soon over: it is asked again and again."""


def open_here(dialect: str) -> Loader:
    """The dialect in the namespace this process stands in. Raises RequirementError where what loads it is missing."""
    module = importlib.import_module(f"{__package__}.{dialect}")
    return cast(Loader, module.open_here())
