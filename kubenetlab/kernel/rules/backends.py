"""Loader protocols of the rule backends.

The loader of a backend is the module here with the name of its module in hoststate/rules/.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

from kubenetlab.hoststate.rules.rulesets import OwnedName


class RulesError(Exception):
    """Message about rules that a backend rejected; nothing of them is in force."""


class Loader(Protocol):
    """Loader of one rule backend, for the network namespace in which it was created."""

    def run(self, text: str) -> str:
        """Load the text of `update` or `replacement`, completely or not at all; return the output.

        Text that exceeds what the kernel accepts at once from an ordinary user is loaded in several
        parts. Raises RulesError.
        """

    def listed(self, names: Sequence[OwnedName]) -> object:
        """Return the loaded rules of these names, as JSON types, for `differences`."""

    def text(self) -> str:
        """Return all rules of the namespace as the backend's own program prints them."""

    def close(self) -> None: ...


@runtime_checkable
class WatchingLoader(Protocol):
    """Loader that also reacts to events; it stays open as long as its namespace exists."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are events."""

    def process_events(self) -> None:
        """Process the pending events."""


@runtime_checkable
class MaintainedLoader(Protocol):
    """Loader with work to do some time after a change; it stays open, too."""

    def maintain(self) -> None:
        """Do the work that is due.

        Raises RulesError, or OSError if the namespace is gone.
        """


@runtime_checkable
class ComparingLoader(Protocol):
    """Loader that checks by itself whether its rules are still loaded; it stays open, too."""

    def has_drift(self) -> bool:
        """Return True if a check found a change made by others.

        Called often, so each call checks only a part of the rules, or nothing if no check is due.
        """


def open_loader(backend: str) -> Loader:
    """Open a backend's loader in the current network namespace.

    Raises RequirementError if a required library or program is missing.
    """
    module = importlib.import_module(f"{__package__}.{backend}")
    return cast(Loader, module.open_loader())
