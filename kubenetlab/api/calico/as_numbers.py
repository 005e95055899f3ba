"""AS numbers of Calico: numbers, or texts such as `64512` and `1.10`.

Objects have numbers; texts are converted before a document is decoded.

Source: projectcalico/calico api/pkg/lib/numorstring/asnumber.go (3.30).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.api.text.decode import found

MAX_AS_NUMBER: Final = 0xFFFFFFFF
_TEXT: Final = r"^([0-9]+|[0-9]+\.[0-9]+)$"
"""Notations: asplain and asdot (RFC 5396)."""
_FIELDS: Final = ("asNumber", "localASNumber", "asPathPrefix", "prefix")
"""Fields of Calico's objects with an AS number, or with a list of them."""

ASNumber = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_AS_NUMBER,
        title="an AS number",
        extra_json_schema={"type": ["integer", "string"], "pattern": _TEXT},
    ),
]


def parse_as_number(text: str) -> int | None:
    """Return the AS number that a text means; None if it is none, or out of range."""
    if re.fullmatch(_TEXT, text, re.ASCII) is None or len(text) > 20:
        return None
    high, dot, low = text.rpartition(".")
    if dot and max(int(high), int(low)) > 0xFFFF:
        return None
    number = (int(high or 0) << 16) + int(low)
    return number if 1 <= number <= MAX_AS_NUMBER else None


def as_number_fault(text: str) -> str | None:
    """Return why the value of an annotation is not an AS number, or None if it is one."""
    if parse_as_number(text) is not None:
        return None
    return f"expected an AS number from 1 to {MAX_AS_NUMBER}, found {found(text)}"


def with_as_numbers(document: JsonMapping) -> JsonMapping:
    """Return a document whose spec has numbers in place of texts that are AS numbers."""
    if "spec" not in document:
        return document
    return {**document, "spec": _converted("spec", document["spec"])}


def _converted(field: str, value: JsonValue) -> JsonValue:
    """Return the value of a field with numbers in place of texts."""
    if isinstance(value, str):
        number = parse_as_number(value) if field in _FIELDS else None
        return value if number is None else number
    if isinstance(value, Mapping):
        return {key: _converted(key, item) for key, item in value.items()}
    return [_converted(field, item) for item in value] if isinstance(value, list) else value
