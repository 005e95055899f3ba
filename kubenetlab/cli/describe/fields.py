"""Lines of `describe`: a name and an aligned value, several values, and tables of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubenetlab.cli.terminal.printing import echo, print_table

WIDTH: Final = 19
"""Column at which values start."""


def print_field(name: str, value: Any, depth: int = 0) -> None:
    """Print `Name:  value`, indented by `depth` steps; all values start in one column."""
    echo(f"{'  ' * depth}{(name + ':').ljust(WIDTH - 2 * depth - 1)} {value}".rstrip())


def print_values(name: str, values: Sequence[str], depth: int = 0) -> None:
    """Print a name with any number of values, one per line."""
    print_field(name, values[0] if values else "<none>", depth)
    for value in values[1:]:
        echo(" " * WIDTH + value)


def print_mapping(name: str, values: Mapping[str, str], depth: int = 0) -> None:
    """Print a name with pairs such as labels, one KEY=VALUE per line."""
    print_values(name, [f"{key}={value}" for key, value in values.items()], depth)


def print_conditions(document: Mapping[str, Any]) -> None:
    """Print the conditions of an object as a table."""
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
