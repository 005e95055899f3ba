"""Versions of the store file's format, and migrations of files with an older one.

The header of a store file contains its format. The journal has the format of its file. A new field
with a default keeps the format. Every other change, such as a field or kind with another name,
increments `FORMAT` and adds an entry to `MIGRATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from kubenetlab import __version__
from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import StoreError

FORMAT: Final = 3
"""Format that this version writes."""

Document = JsonObject
"""Content of a store file, or one line of its journal: both have `objects` by kind."""
Migration = Callable[[Document], Document]
"""Function that returns a document of one format in the next format."""


class Header(Struct):
    """Header of a store file."""

    format: Annotated[int, Meta(ge=0)] = 0
    """Format of the file; files of format 0 have no header."""
    writer: str = ""
    """Version of kubenetlab that wrote the file."""


def read_format(data: bytes) -> int:
    """Return the format of a store file, from its content.

    Raises StoreError if this version does not support the format, and msgspec.MsgspecError if the
    header cannot be read.
    """
    header = msgspec.json.decode(data, type=Header)
    if header.format > FORMAT:
        writer = f", written by kubenetlab {header.writer}" if header.writer else ""
        raise StoreError(
            f"expected at most format {FORMAT}, which kubenetlab {__version__} writes; found "
            f"format {header.format}{writer}. Use that version, or remove the lab with "
            "`kubenetlab down` and create it again"
        )
    return header.format


def migrate(data: bytes, format_: int) -> bytes:
    """Return a store file or a line of its journal in the current format, as JSON.

    data: content of the file or the line.
    format_: format of the file.
    """
    if format_ == FORMAT:
        return data
    document = msgspec.json.decode(data)
    for number in range(format_, FORMAT):
        document = MIGRATIONS[number](document)
    return msgspec.json.encode(document)


def _rename_internal_kinds(document: Document) -> Document:
    """Migrate from format 0, which has other names for three internal kinds."""
    return {
        **document,
        "objects": {
            _KINDS_OF_FORMAT_0.get(kind, kind): objects
            for kind, objects in document["objects"].items()
        },
        **(
            {
                "gone": [
                    [_KINDS_OF_FORMAT_0.get(kind, kind), *key] for kind, *key in document["gone"]
                ]
            }
            if "gone" in document
            else {}
        ),
    }


_KINDS_OF_FORMAT_0: Final = {
    "Observed": "PodRuntimeStatus",
    "LastView": "ProxySnapshot",
    "Ledger": "AllocationState",
}


def _move_layout_to_cni_options(document: Document) -> Document:
    """Migrate from format 1, in which only the CNI mode bridge has a choice."""
    objects = document["objects"]
    if "Decisions" not in objects:
        return document
    decisions = [
        {key: value for key, value in entry.items() if key != "podLayout"}
        | {"cniMode": "bridge", "cniOptions": {"layout": entry["podLayout"]}}
        for entry in objects["Decisions"]
    ]
    return {**document, "objects": {**objects, "Decisions": decisions}}


def _move_last_addresses(document: Document) -> Document:
    """Migrate from format 2, in which all counters are in one object."""
    objects = document["objects"]
    states = objects.get("AllocationState", [])
    if not any("lastAddresses" in state for state in states):
        return document
    (state,) = states
    counters = {key: value for key, value in state.items() if key != "lastAddresses"}
    version = {key: value for key, value in state["metadata"].items() if key == "resourceVersion"}
    addresses = {
        "metadata": {"name": "host-local", **version},
        "lastAddresses": state["lastAddresses"],
    }
    moved = {"AllocationState": [counters], "HostLocalState": [addresses]}
    return {**document, "objects": {**objects, **moved}}


MIGRATIONS: Final[Mapping[int, Migration]] = {
    0: _rename_internal_kinds,
    1: _move_layout_to_cni_options,
    2: _move_last_addresses,
}
"""Format → migration to the next format, for every format before `FORMAT`."""
