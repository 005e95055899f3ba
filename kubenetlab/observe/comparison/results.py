"""Results of a comparison: one entry for each CNI mode, measured or with a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonObject
from kubenetlab.observe.comparison.measurement import Measurement

_ATTACHED: Final = re.compile(r"^link \S+: (.+)$", re.MULTILINE)
"""Line of the listing of eBPF programs: a link, and the programs at it."""


class ComparedMode(Struct, frozen=True):
    """A CNI mode with its properties, or with the reason why it could not be measured."""

    mode: str
    """Mode as on the command line."""
    ip_version: int = 4
    """Version of the packets that were sent."""
    measurement: Measurement | None = None
    programs: int = 0
    """Number of eBPF programs at the links of a node."""
    enforces_policy: bool = False
    """True if a NetworkPolicy that isolates a pod blocks a connection to it."""
    error: str = ""
    """Reason; empty for a mode that was measured."""


def count_programs(listings: Mapping[str, str]) -> int:
    """Return the number of eBPF programs in listings of rules, by rule backend."""
    return sum(
        len(match[1].split(", "))
        for text in listings.values()
        for match in _ATTACHED.finditer(text)
    )


def document(results: Sequence[ComparedMode]) -> JsonObject:
    """Return the results as plain data; fields without a value are null."""
    return {
        "ok": not any(result.error for result in results),
        "modes": [_entry(result) for result in results],
    }


def _entry(result: ComparedMode) -> JsonObject:
    measured = result.measurement
    values = {
        name: getattr(measured, name) if measured is not None else None
        for name in Measurement.__struct_fields__
    }
    return {
        "mode": result.mode,
        "error": result.error,
        "ip_version": None if measured is None else result.ip_version,
        **values,
        "programs": None if measured is None else result.programs,
        "enforces_policy": None if measured is None else result.enforces_policy,
    }
