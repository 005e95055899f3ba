"""The lines of `describe`: a name and a value, values below one another, conditions as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubenetlab.cli.terminal.printing import echo, print_table

WIDTH: Final = 19
"""Where values begin."""


def print_field(name: str, value: Any, depth: int = 0) -> None:
    """`Name:  value`, `depth` steps to the right; values stay below one another."""
    echo(f"{'  ' * depth}{(name + ':').ljust(WIDTH - 2 * depth - 1)} {value}".rstrip())


def print_values(name: str, values: Sequence[str], depth: int = 0) -> None:
    """A name with any number of values, a line each."""
    print_field(name, values[0] if values else "<none>", depth)
    for value in values[1:]:
        echo(" " * WIDTH + value)


def print_mapping(name: str, values: Mapping[str, str], depth: int = 0) -> None:
    """Labels and the like."""
    print_values(name, [f"{key}={value}" for key, value in values.items()], depth)


def print_conditions(document: Mapping[str, Any]) -> None:
    """What an object's status says of it."""
    echo("Conditions:")
    rows = [
        (
            condition["type"],
            condition["status"],
            condition.get("reason", ""),
            condition.get("message", ""),
        )
        for condition in document.get("status", {}).get("conditions", ())
    ]
    print_table(
        ("  TYPE", "STATUS", "REASON", "MESSAGE"), [(f"  {type_}", *rest) for type_, *rest in rows]
    )
