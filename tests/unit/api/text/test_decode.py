"""Messages about values that have none of the types that a field permits."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct

from kubenetlab.api.text.decode import decode


class Options(Struct, frozen=True):
    legacy: bool | Literal["auto"] = "auto"
    gateway: Annotated[int, Meta(title="the number of an address")] | Literal["first", "last"] = 1
    number: int | str | None = None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"legacy": "x"}, 'expected true, false or auto, found "x"'),
        ({"gateway": "x"}, 'expected the number of an address, first or last, found "x"'),
        ({"number": []}, "expected a whole number or a string, found a list"),
    ],
)
def test_all_values_of_a_union_are_named(document: dict[str, object], message: str) -> None:
    (finding,) = decode(document, Options).findings
    assert finding.message == message


@pytest.mark.parametrize("value", [True, "auto", None])
def test_values_of_a_union_are_accepted(value: object) -> None:
    assert decode({"legacy": value}, Options).findings == ()
