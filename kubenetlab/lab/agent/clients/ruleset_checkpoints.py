"""Checkpoints of the rules of nodes: what the last transactions have loaded.

They are kept in a file, so that the next agent knows whether the rules are still the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from kubenetlab.errors import os_error_text
from kubenetlab.hoststate.rules.rulesets import OwnedName, RuleObject, digest, names
from kubenetlab.kernel.files import replace_file
from kubenetlab.lab.log import log


class RulesetCheckpoint(Struct, frozen=True):
    """State of a node's rulesets after our last transaction."""

    generation: int
    digest: str
    """Digest of the rule objects that were loaded."""
    names: dict[str, tuple[OwnedName, ...]]
    """Rule backend → tables and other containers of rules that it owns in the namespace."""


class RulesetCheckpoints(Mapping[str, RulesetCheckpoint]):
    """The checkpoint of each node, by its namespace."""

    def __init__(self, path: Path) -> None:
        """Begin without checkpoints. `path` is their file."""
        self._path = path
        self._checkpoints: dict[str, RulesetCheckpoint] = {}
        self._loaded: dict[str, tuple[int, Sequence[RuleObject]]] = {}
        """Generation and objects of checkpoints that are still to be computed.

        Other nodes load the same rules at the same time, and they come first."""

    def load(self) -> None:
        """Read the checkpoints of a former agent; without a readable file there are none."""
        self._loaded.clear()
        try:
            self._checkpoints = msgspec.json.decode(
                self._path.read_bytes(), type=dict[str, RulesetCheckpoint]
            )
        except (OSError, msgspec.DecodeError):
            self._checkpoints = {}

    def save(self) -> None:
        """Write the checkpoints for the next agent.

        An agent without current checkpoints loads all rules again, so a failure is only logged.
        """
        try:
            replace_file(self._path, msgspec.json.encode(dict(self)))
        except OSError as error:
            log(f"cannot write the checkpoints of the rules: {os_error_text(error)}")

    def record(self, netns: str, generation: int, objects: Sequence[RuleObject]) -> None:
        """Record that a transaction has loaded objects, with the generation afterwards."""
        self._loaded[netns] = generation, objects

    def forget(self, netns: str) -> None:
        """Drop the checkpoint of a node that is gone."""
        self._loaded.pop(netns, None)
        self._checkpoints.pop(netns, None)

    def __getitem__(self, netns: str) -> RulesetCheckpoint:
        if (loaded := self._loaded.pop(netns, None)) is not None:
            generation, objects = loaded
            self._checkpoints[netns] = RulesetCheckpoint(
                generation, digest(objects), names(objects)
            )
        return self._checkpoints[netns]

    def __len__(self) -> int:
        return len({*self._checkpoints, *self._loaded})

    def __iter__(self) -> Iterator[str]:
        return iter({**self._checkpoints, **self._loaded})
