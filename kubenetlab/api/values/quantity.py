"""Quantities: numbers with Kubernetes' suffixes, such as `64Mi`, `1.5G` or `100m`.

Source: k8s.io/apimachinery pkg/api/resource/{quantity.go,suffix.go} (1.33).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fractions import Fraction  # imported at the first quantity: few manifests have one

Quantity = str | int | float
"""Quantity as in a document; YAML reads some quantities as numbers."""

SYNTAX: Final = (
    "a number, and perhaps one of Ki Mi Gi Ti Pi Ei, n u m k M G T P E, or an exponent such as e3"
)
"""Syntax of quantities, for messages."""
MAX: Final = 2**63 - 1
"""Maximum value; larger ones are reduced to it."""

_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,3}))?"
)
_SUFFIXES: Final = {
    "": (1, 1),
    **{suffix: (1, 1000**power) for power, suffix in enumerate("mun", 1)},
    **{suffix: (1000**power, 1) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": (1024**power, 1) for power, suffix in enumerate("KMGTPE", 1)},
}
"""Suffix → (numerator, denominator) of its factor."""


def parse_quantity(text: Quantity) -> Fraction:
    """Return the value of a quantity. Raises ValueError for any other text."""
    from fractions import Fraction

    match = _QUANTITY.fullmatch(str(text))
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text} is not a quantity")
    number, suffix, exponent = match.groups()
    scale = Fraction(10) ** int(exponent) if exponent else Fraction(*_SUFFIXES[suffix or ""])
    return Fraction(number) * scale


def rounded_up(text: Quantity) -> int:
    """Return the value of a quantity rounded away from zero, at most MAX. Raises ValueError.

    Source: Quantity.Value() upstream.
    """
    value = parse_quantity(text)
    return min(math.ceil(value) if value > 0 else math.floor(value), MAX)


def format_bytes(amount: int) -> str:
    """Return a number of bytes in the largest binary unit without a fraction: `64Mi`."""
    for power, suffix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if amount and amount % 1024**power == 0:
            return f"{amount // 1024**power}{suffix}"
    return f"{amount} bytes"
