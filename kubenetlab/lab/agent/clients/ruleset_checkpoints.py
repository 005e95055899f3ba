"""Checkpoints of the rules of nodes: what the last transactions have loaded.

They are kept in a file, so that the next agent knows whether the rules are still the same. The
file says that rules are unknown before they change: the agent may die at any moment, and nothing
else tells whether maps and sets hold the rules of the last transaction or of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from kubenetlab.errors import os_error_text
from kubenetlab.hoststate.rules.rulesets import OwnedName, RuleObject, digest, names
from kubenetlab.kernel.files import replace_file
from kubenetlab.lab.log import log

OwnedNames = dict[str, tuple[OwnedName, ...]]
"""Rule backend → tables and other containers of rules that it owns in a namespace."""


class RulesetCheckpoint(Struct, frozen=True):
    """State of a node's rulesets after our last transaction."""

    generation: int
    digest: str
    """Digest of the rule objects that were loaded; empty if a transaction may not have ended."""
    names: OwnedNames


class RulesetCheckpoints(Mapping[str, RulesetCheckpoint]):
    """The checkpoint of each node, by its namespace."""

    def __init__(self, path: Path) -> None:
        """Begin without checkpoints. `path` is their file."""
        self._path = path
        self._checkpoints: dict[str, RulesetCheckpoint] = {}
        self._loaded: dict[str, tuple[int, Sequence[RuleObject]]] = {}
        """Generation and objects of transactions whose checkpoints are not computed yet.

        The transactions of other nodes come first.
        """
        self._unknown: dict[str, RulesetCheckpoint] = {}
        """Namespaces whose transactions have begun → their checkpoints in the file."""

    def load(self) -> None:
        """Read the checkpoints of a former agent; without a readable file there are none."""
        self._loaded.clear()
        self._unknown.clear()
        try:
            self._checkpoints = msgspec.json.decode(
                self._path.read_bytes(), type=dict[str, RulesetCheckpoint]
            )
        except (OSError, msgspec.DecodeError):
            self._checkpoints = {}

    def save(self) -> None:
        """Write the checkpoints for the next agent.

        Those of transactions that were refused stay unknown.
        """
        known = dict(self)
        self._write({**known, **self._unknown})

    def begin(self, objects: Mapping[str, Sequence[RuleObject]]) -> None:
        """Write that the rules of namespaces are unknown until `record`.

        objects: rules that transactions load, by namespace.
        """
        for netns, rules in objects.items():
            owned = {name: dict.fromkeys(of_backend) for name, of_backend in names(rules).items()}
            for name, former in self.owned_names(netns).items():
                owned.setdefault(name, {}).update(dict.fromkeys(former))
            self._unknown[netns] = RulesetCheckpoint(
                0, "", {name: tuple(of_backend) for name, of_backend in owned.items()}
            )
        self._write({**self._checkpoints, **self._unknown})

    def owned_names(self, netns: str) -> Mapping[str, tuple[OwnedName, ...]]:
        """Return what each rule backend may own in a namespace."""
        if (unknown := self._unknown.get(netns)) is not None and netns not in self._loaded:
            return unknown.names
        return self[netns].names if netns in self else {}

    def _write(self, checkpoints: Mapping[str, RulesetCheckpoint]) -> None:
        """Write checkpoints; an agent without them loads all rules, so a failure is only logged."""
        try:
            replace_file(self._path, msgspec.json.encode(checkpoints))
        except OSError as error:
            log(f"cannot write the checkpoints of the rules: {os_error_text(error)}")
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def record(self, netns: str, generation: int, objects: Sequence[RuleObject]) -> None:
        """Record that a transaction has loaded objects, with the generation afterwards."""
        self._loaded[netns] = generation, objects

    def forget(self, netns: str) -> None:
        """Drop the checkpoint of a node that is gone."""
        for checkpoints in (self._loaded, self._unknown, self._checkpoints):
            checkpoints.pop(netns, None)

    def __getitem__(self, netns: str) -> RulesetCheckpoint:
        if (loaded := self._loaded.pop(netns, None)) is not None:
            generation, objects = loaded
            self._unknown.pop(netns, None)
            self._checkpoints[netns] = RulesetCheckpoint(
                generation, digest(objects), names(objects)
            )
        return self._checkpoints[netns]

    def __len__(self) -> int:
        return len({*self._checkpoints, *self._loaded})

    def __iter__(self) -> Iterator[str]:
        return iter({**self._checkpoints, **self._loaded})
