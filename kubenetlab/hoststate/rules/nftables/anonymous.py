"""Anonymous sets and maps, which exist as long as the rule that contains them.

Their messages come before the message of the rule, which refers to a set by an id of the
transaction.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from kubenetlab.hoststate.netlink.wire import NLM_F_CREATE, attribute, nested, string
from kubenetlab.hoststate.rules.nftables.datatypes import DATA_TYPES, concatenated_number
from kubenetlab.hoststate.rules.nftables.encoding import (
    NEW_ELEMENTS,
    NEW_SET,
    SET_ANONYMOUS,
    SET_CONSTANT,
    SET_INTERVAL,
    SET_MAP,
    RuleContext,
    data,
    element_messages,
    next_set_id,
    table_message,
    u32,
    verdict_data,
)
from kubenetlab.hoststate.rules.nftables.selectors import Selector, typeof_verdict
from kubenetlab.hoststate.rules.nftables.sets import (
    VERDICT_DATA,
    encode_element,
    interval_elements,
    interval_size,
    set_userdata,
)

_SET_NAME, _MAP_NAME = "__set%d", "__map%d"
"""Templates of names; the kernel fills in a number."""
_ID_BYTES: Final = 4
_NAMED_MAP: Final = string(2, _MAP_NAME)
_INTEGER: Final = DATA_TYPES["integer"]
_PORT: Final = DATA_TYPES["inet_service"]
_HOST_U32: Final = struct.Struct("=I")


def anonymous_set(
    context: RuleContext, selector: Selector, values: Sequence[str]
) -> tuple[str, int]:
    """Create a set of values, ranges or networks; return its name and its id in the transaction."""
    types = (selector.type,)
    is_interval = any("/" in value or "-" in value for value in values)
    if is_interval:
        elements = list(interval_elements(types, values))
    else:
        elements = [encode_element(selector.type.encode(value)) for value in values]
    return _create(
        context,
        _SET_NAME,
        SET_INTERVAL if is_interval else 0,
        selector.type.number,
        selector.type.size,
        b"",
        set_userdata(types, is_merged=is_interval, key_typeof=selector.typeof),
        elements,
        interval_size(elements) if is_interval else len(elements),
    )


def anonymous_verdict_map(context: RuleContext, chains: Sequence[str]) -> tuple[str, int]:
    """Create the map from 0, 1, 2 … to `goto` a chain; return its name and id."""
    set_id = next_set_id()
    numbered = u32(4, set_id)
    before_id = _verdict_map_start(context.family, context.table, len(chains))
    context.messages.append(before_id + numbered[-_ID_BYTES:])
    context.messages += element_messages(
        context.family,
        NEW_ELEMENTS,
        context.table,
        (_NAMED_MAP, numbered),
        [_goto_element(index, chain) for index, chain in enumerate(chains)],
    )
    return _MAP_NAME, set_id


@lru_cache(64)
def _verdict_map_start(family: str, table: str, size: int) -> bytes:
    """Return the message that creates a map, without the map's id at its end."""
    value = u32(6, VERDICT_DATA) + u32(7, 0)
    userdata = set_userdata((_INTEGER,), (DATA_TYPES["verdict"],), value_typeof=typeof_verdict())
    message = _new_set(
        family,
        table,
        _MAP_NAME,
        SET_MAP,
        (_INTEGER.number, _INTEGER.size),
        value,
        userdata,
        size,
        0,
    )
    return message[:-_ID_BYTES]


def _goto_element(index: int, chain: str) -> bytes:
    name = chain.encode()
    return _goto_element_start(index, len(name)) + name + bytes(1 + (-len(name) - 1 & 3))


@lru_cache(4096)
def _goto_element_start(index: int, name_bytes: int) -> bytes:
    """Return an element up to the name of the chain, which depends on the name's length."""
    element = encode_element(
        _HOST_U32.pack(index), nested(2, verdict_data("goto", "x" * name_bytes))
    )
    return element[: len(element) - name_bytes - 1 - (-name_bytes - 1 & 3)]


def anonymous_address_map(
    context: RuleContext, address_type: str, targets: Sequence[tuple[str, int]]
) -> tuple[str, int]:
    """Create the map from 0, 1, 2 … to an address and a port; return its name and id."""
    types = (DATA_TYPES[address_type], _PORT)
    elements = [
        encode_element(
            _HOST_U32.pack(index),
            data(2, types[0].encode(address) + _PORT.encode(str(port)) + bytes(2)),
        )
        for index, (address, port) in enumerate(targets)
    ]
    size = sum(type_.words for type_ in types) * 4
    return _create(
        context,
        _MAP_NAME,
        SET_MAP,
        _INTEGER.number,
        _INTEGER.size,
        u32(6, concatenated_number(types)) + u32(7, size),
        set_userdata((_INTEGER,), types),
        elements,
        len(elements),
    )


def _create(
    context: RuleContext,
    name: str,
    flags: int,
    key_type: int,
    key_size: int,
    value_attributes: bytes,
    userdata: bytes,
    elements: Sequence[bytes],
    size: int,
) -> tuple[str, int]:
    set_id = next_set_id()
    named, numbered = string(2, name), u32(4, set_id)
    context.messages.append(
        _new_set(
            context.family,
            context.table,
            name,
            flags,
            (key_type, key_size),
            value_attributes,
            userdata,
            size,
            set_id,
        )
    )
    context.messages += element_messages(
        context.family, NEW_ELEMENTS, context.table, (named, numbered), elements
    )
    return name, set_id


def _new_set(
    family: str,
    table: str,
    name: str,
    flags: int,
    key: tuple[int, int],
    value: bytes,
    userdata: bytes,
    size: int,
    set_id: int,
) -> bytes:
    """Return the message that creates a set; the id is at the end.

    key: number and bytes of the type.
    value: attributes of the value's type; empty for a set.
    size: number of elements.
    """
    return table_message(
        family,
        NEW_SET,
        NLM_F_CREATE,
        table,
        string(2, name),
        u32(3, SET_ANONYMOUS | SET_CONSTANT | flags),
        u32(4, key[0]),
        u32(5, key[1]),
        value,
        nested(9, u32(1, size)),
        attribute(13, userdata),
        u32(10, set_id),
    )
