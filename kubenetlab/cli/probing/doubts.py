"""Reasons why the answer to a probe proves nothing: unenforced objects, duplicate addresses."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.cli.labs.diagnostics import (
    AssessedDiagnostic,
    abbreviate,
    decode,
    how_to_enforce,
    reasons_of,
)
from kubenetlab.cli.terminal.printing import echo
from kubenetlab.cli.terminal.theme import BAD, paint

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


def doubtful_objects(client: Client) -> list[JsonMapping]:
    """Return the diagnostics because of which the answer to a probe proves nothing."""
    from kubenetlab.diagnostics import DOUBTFUL

    return [item for item in client.diagnostics() if item["code"] in DOUBTFUL]


def duplicates_of(client: Client, pods: AbstractSet[str]) -> list[str]:
    """Return the messages about duplicate addresses of pods, given as `namespace/name`."""
    from kubenetlab.diagnostics import DUPLICATE_ADDRESS

    return [
        diagnostic.message
        for diagnostic in decode(client.diagnostics())
        if diagnostic.code == DUPLICATE_ADDRESS and not pods.isdisjoint(diagnostic.scope.into)
    ]


class Doubts:
    """Diagnostics that could change the result of one probe, or of a series."""

    def __init__(self, assessed: Iterable[AssessedDiagnostic]) -> None:
        affecting = [item for item in assessed if item.affected and not item.is_accepted]
        self._unenforced = [item for item in affecting if item.is_unenforced]
        self.unenforced = [item.diagnostic.subject for item in self._unenforced]
        """Objects and fields that the lab does not enforce."""
        self.duplicates = [item.diagnostic.message for item in affecting if not item.is_unenforced]
        """Messages about duplicate addresses."""

    def __bool__(self) -> bool:
        return bool(self.unenforced or self.duplicates)

    def as_data(self) -> JsonObject:
        """Return the fields of the JSON form of a result."""
        return {"unenforced": self.unenforced, "duplicates": self.duplicates}

    def show(self) -> None:
        """Print one line for each duplicate address, and one for all unenforced objects."""
        for message in self.duplicates:
            echo(f"{paint('✗', BAD)} {message}")
        if self.unenforced:
            echo(
                f"{paint('✗', BAD)} not enforced by this lab, could change this result: "
                f"{abbreviate(self.unenforced)}"
            )
            for reason in reasons_of(self._unenforced):
                echo(f"    {reason}")

    def how_to_enforce(self, command: str) -> str:
        """Return commands that enforce the first object, or accept it as `command` can."""
        return how_to_enforce(self._unenforced, command)
