"""Check that objects can be decoded from their own encoding, before they are stored.

Python does not check field types when an object is created: `replicas=True` would be stored, and
the next agent could not read it. So every change is encoded and decoded before it is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import GenericAlias
from typing import Final

import msgspec

from kubenetlab.api.meta import Resource
from kubenetlab.api.store import GivenDocument, GivenKey, Kind

FAILURES: Final = (msgspec.MsgspecError, RecursionError, TypeError, ValueError, OverflowError)
"""Exceptions of encoding and decoding.

Their causes are wrong types, nesting beyond Python's recursion limit, single surrogates, and keys
that JSON does not support.
"""


def unreadable_objects(objects: Iterable[Resource]) -> Iterator[tuple[Resource, str]]:
    """Yield every object that cannot be decoded from its own encoding, with the error."""
    by_kind: dict[Kind, list[Resource]] = {}
    for obj in objects:
        by_kind.setdefault(type(obj), []).append(obj)
    for kind, of_kind in by_kind.items():
        # Object by object only after a failure, because one list is decoded faster.
        if _fault(of_kind, GenericAlias(list, (kind,))) is not None:
            yield from ((obj, fault) for obj in of_kind if (fault := _fault(obj, kind)) is not None)


def unreadable_documents(
    documents: Sequence[tuple[GivenKey, GivenDocument | None]],
) -> Iterator[tuple[GivenKey, str]]:
    """Yield key and error of every document that cannot be decoded from its own encoding."""
    if _fault([document for _, document in documents], list[GivenDocument | None]) is not None:
        yield from (
            (key, fault)
            for key, document in documents
            if (fault := _fault(document, GivenDocument | None)) is not None
        )


@cache
def _decoder(type_: object) -> msgspec.json.Decoder[object]:
    return msgspec.json.Decoder(type_)


def _fault(value: object, type_: object) -> str | None:
    """Return the error of decoding a value from its encoding, after its field; None on success."""
    try:
        _decoder(type_).decode(msgspec.json.encode(value))
    except FAILURES as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").removeprefix(".")
        return f"{field}: {message}" if field else message
    return None
