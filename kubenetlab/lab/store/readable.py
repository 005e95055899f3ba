"""Whether the next agent can read what this one is about to store.

The store's types are not checked when an object is made in Python: `replicas=True` is an object like any other until a new agent
decodes the file. So everything that changes is encoded and decoded before it is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from kubenetlab.api.meta import Resource
from kubenetlab.api.store import GivenDocument, GivenKey, Kind

FAILURES: Final = (msgspec.MsgspecError, RecursionError, TypeError, ValueError, OverflowError)
"""What encoding or decoding raises: of wrong types, nesting beyond Python's limit, half a surrogate pair, keys that JSON lacks."""


def unreadable_objects(objects: Iterable[Resource]) -> Iterator[tuple[Resource, str]]:
    """Yield every object that cannot be decoded from its own encoding, and why."""
    by_kind: dict[Kind, list[Resource]] = {}
    for obj in objects:
        by_kind.setdefault(type(obj), []).append(obj)
    for kind, several in by_kind.items():
        if _fault(several, list[kind]) is not None:  # type: ignore[valid-type]
            yield from ((obj, fault) for obj in several if (fault := _fault(obj, kind)) is not None)


def unreadable_documents(
    documents: Sequence[tuple[GivenKey, GivenDocument | None]],
) -> Iterator[tuple[GivenKey, str]]:
    """Yield the key of every document as given that cannot be decoded from its own encoding, and why."""
    if _fault([document for _, document in documents], list[GivenDocument | None]) is not None:
        yield from (
            (key, fault)
            for key, document in documents
            if (fault := _fault(document, GivenDocument | None)) is not None
        )


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


def _fault(value: Any, type_: Any) -> str | None:
    """Return what is wrong with a value, led by its field; None when it is read back."""
    try:
        _decoder(type_).decode(msgspec.json.encode(value))
    except FAILURES as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").removeprefix(".")
        return f"{field}: {message}" if field else message
    return None
