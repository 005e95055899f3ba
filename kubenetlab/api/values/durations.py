"""Durations in Go's notation, as in Kubernetes' fields and command lines.

Source: Go's time.ParseDuration (src/time/format.go).
"""

import re
from collections.abc import Mapping
from typing import Final

_UNITS: Final[Mapping[str, float]] = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}


def duration_s(text: str) -> float | None:
    """Return the length of a duration such as `1m30s` or `500ms`, in seconds.

    Return 0 for an empty text, and None for a text that is not a duration.
    """
    if text in ("", "0"):
        return 0.0
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
