"""Lines of `describe`: a name and an aligned value, several values, and tables of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.terminal.printing import echo, print_table
from kubenetlab.cli.terminal.theme import HEADING, LABEL, WARNING, paint

WIDTH: Final = 19
"""Column at which values start."""

_POSITIVE: Final = frozenset(
    (
        "Available",
        "ContainersReady",
        "Initialized",
        "PodReadyToStartContainers",
        "PodScheduled",
        "Ready",
    )
)
"""Conditions that are true in the normal state."""


def print_field(name: str, value: object, depth: int = 0) -> None:
    """Print `Name:  value`, indented by `depth` steps; all values start in one column."""
    text = str(value).rstrip()
    label = f"{name}:" if not text else f"{name}:".ljust(WIDTH - 2 * depth - 1) + " "
    echo(f"{'  ' * depth}{paint(label, LABEL)}{text}", indent=WIDTH)


def print_heading(title: str, depth: int = 0) -> None:
    """Print the title of the lines or the table that follow."""
    echo("  " * depth + paint(f"{title}:", HEADING))


def print_values(name: str, values: Sequence[str], depth: int = 0) -> None:
    """Print a name with any number of values, one per line."""
    print_field(name, values[0] if values else "<none>", depth)
    for value in values[1:]:
        echo(" " * WIDTH + value, indent=WIDTH)


def print_mapping(name: str, values: Mapping[str, str], depth: int = 0) -> None:
    """Print a name with pairs such as labels, one KEY=VALUE per line."""
    print_values(name, [f"{key}={value}" for key, value in values.items()], depth)


def print_conditions(document: JsonMapping) -> None:
    """Print the conditions of an object as a table."""
    print_heading("Conditions")
    rows = [
        (
            condition["type"],
            _paint_status(condition),
            condition.get("reason", ""),
            condition.get("message", ""),
        )
        for condition in document.get("status", {}).get("conditions", ())
    ]
    print_table(("TYPE", "STATUS", "REASON", "MESSAGE"), rows, indent=2)


def _paint_status(condition: JsonMapping) -> str:
    """Return the status of a condition, painted if it should be true and is not."""
    is_met = condition["status"] == "True" or condition["type"] not in _POSITIVE
    return paint(condition["status"], None if is_met else WARNING)
