"""Validation of fields that several kinds of objects have in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path


def validate_one_of(fields: Mapping[str, object], path: Path) -> Iterator[Finding]:
    """Yield a finding unless exactly one of the fields has a value; None stands for no value."""
    present = [name for name, value in fields.items() if value is not None]
    if len(present) != 1:
        *names, last = fields
        yield Finding(
            path,
            f"must have exactly one of {', '.join(names)} and {last}, "
            f"found {' and '.join(present) or 'none'}",
        )


def validate_unique(values: Sequence[str], path: Path) -> Iterator[Finding]:
    """Yield a finding for each value that a list has again."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Finding((*path, index), f"duplicate value {found(value)}")
        seen.add(value)
