"""Commands for sets, maps and their elements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from kubenetlab.hoststate.netlink.wire import NLM_F_CREATE, attribute, nested, string
from kubenetlab.hoststate.rules.nftables.command import Command
from kubenetlab.hoststate.rules.nftables.datatypes import (
    DATA_TYPES,
    DataType,
    SetType,
    concatenated_number,
    encode_value,
    encoded_size,
)
from kubenetlab.hoststate.rules.nftables.encoding import (
    DEL_ELEMENTS,
    DEL_SET,
    NEW_ELEMENTS,
    NEW_SET,
    SET_CONCAT,
    SET_EVAL,
    SET_INTERVAL,
    SET_MAP,
    SET_TIMEOUT,
    data,
    element_messages,
    next_set_id,
    storable,
    table_message,
    u32,
    u64,
    verdict_data,
)
from kubenetlab.hoststate.rules.nftables.objects import Entry, quoted
from kubenetlab.hoststate.rules.nftables.selectors import (
    NUMGEN_RANDOM,
    SELECTORS,
    typeof_concat,
    typeof_numgen,
)
from kubenetlab.hoststate.rules.nftables.sets import (
    VERDICT_DATA,
    encode_element,
    range_element,
    set_userdata,
)

_NUMGEN: Final = "numgen random mod "


class AddSet(Command, frozen=True, gc=False):
    """A set or a map without elements."""

    table: str
    name: str
    type: SetType
    comment: str = ""
    timeout_s: int = 0

    @property
    def lines(self) -> Iterable[str]:
        type_, keyword = self.type, "typeof" if self.type.is_typeof else "type"
        flags = " flags interval ;" if type_.is_interval else ""
        timeout = f" flags dynamic,timeout ; timeout {self.timeout_s}s ;" if self.timeout_s else ""
        comment = f" comment {quoted(self.comment)} ;" if self.comment else ""
        place = f"{self.family} {self.table} {self.name}"
        kind = "map" if type_.value else "set"
        return (f"add {kind} {place} {{ {keyword} {type_} ;{flags}{timeout}{comment} }}",)

    def messages(self) -> list[bytes]:
        key, value = components(self.type)
        is_concatenated = len(key) > 1
        flags = (
            (SET_MAP if value else 0)
            | (SET_INTERVAL if self.type.is_interval else 0)
            | (SET_CONCAT if self.type.is_interval and is_concatenated else 0)
            | (SET_TIMEOUT | SET_EVAL if self.timeout_s else 0)
        )
        attributes = [
            string(2, self.name),
            u32(3, flags) if flags else b"",
            u32(4, concatenated_number(key)),
            u32(5, encoded_size(key)),
            u32(10, next_set_id()),
            u64(11, self.timeout_s * 1000) if self.timeout_s else b"",
            attribute(13, self._userdata(key, value)),
        ]
        if value:
            attributes.append(_value_attributes(self.type, value))
        if self.type.is_interval and is_concatenated:
            sizes = (u32(1, type_.size) for type_ in key)
            attributes.append(nested(9, nested(2, *(nested(1, size) for size in sizes))))
        return [table_message(self.family, NEW_SET, NLM_F_CREATE, self.table, *attributes)]

    def _userdata(self, key: Sequence[DataType], value: Sequence[DataType]) -> bytes:
        key_typeof = value_typeof = b""
        if self.type.is_typeof:
            key_typeof = _typeof(self.type.key)
            value_typeof = _typeof(self.type.value) if value else b""
        elif len(key) > 1:
            key_typeof = typeof_concat(())
        return set_userdata(
            key,
            value,
            key_typeof=key_typeof,
            value_typeof=value_typeof,
            comment=storable(self.comment),
        )


def _value_attributes(type_: SetType, value: Sequence[DataType]) -> bytes:
    if type_.has_verdicts:
        return u32(6, VERDICT_DATA) + u32(7, 0)
    return u32(6, concatenated_number(value)) + u32(7, encoded_size(value))


def _typeof(names: Sequence[str]) -> bytes:
    """Describe the expressions by which a set is declared. Raises ValueError if nft could not."""
    described = [
        typeof_numgen(NUMGEN_RANDOM, int(name.removeprefix(_NUMGEN)))
        if name.startswith(_NUMGEN)
        else SELECTORS[name].typeof
        for name in names
    ]
    if not all(described):
        raise ValueError(f"no description of {' . '.join(names)}")
    return described[0] if len(described) == 1 else typeof_concat(described)


@lru_cache(256)
def components(type_: SetType) -> tuple[tuple[DataType, ...], tuple[DataType, ...]]:
    """Return the types of the components of key and value. Raises KeyError for unknown ones."""
    return tuple(map(_component, type_.key)), tuple(map(_component, type_.value))


def _component(name: str) -> DataType:
    """Return a type by its name or by an expression of this type."""
    if name.startswith(_NUMGEN):
        return DATA_TYPES["integer"]
    return DATA_TYPES[name] if name in DATA_TYPES else SELECTORS[name].type


class DeleteSet(Command, frozen=True, gc=False):
    """Deletion of a set or a map."""

    table: str
    name: str
    is_map: bool = False

    @property
    def lines(self) -> Iterable[str]:
        kind = "map" if self.is_map else "set"
        return (f"delete {kind} {self.family} {self.table} {self.name}",)

    def messages(self) -> list[bytes]:
        return [table_message(self.family, DEL_SET, 0, self.table, string(2, self.name))]


class AddElements(Command, frozen=True, gc=False):
    """New elements of a set or a map."""

    table: str
    set_name: str
    type: SetType
    entries: tuple[Entry, ...]

    @property
    def lines(self) -> Iterable[str]:
        entries = ", ".join(map(str, self.entries))
        return (f"add element {self.family} {self.table} {self.set_name} {{ {entries} }}",)

    def messages(self) -> list[bytes]:
        encode = _element_encoder(self.type)
        encoded = [encode(entry) for entry in self.entries]
        name = (string(2, self.set_name),)
        return element_messages(self.family, NEW_ELEMENTS, self.table, name, encoded)


class DeleteElements(Command, frozen=True, gc=False):
    """Deletion of elements of a set or a map."""

    table: str
    set_name: str
    type: SetType
    items: tuple[tuple[str, ...], ...]
    """Keys of the elements."""

    @property
    def lines(self) -> Iterable[str]:
        items = ", ".join(" . ".join(item) for item in self.items)
        return (f"delete element {self.family} {self.table} {self.set_name} {{ {items} }}",)

    def messages(self) -> list[bytes]:
        encode = _element_encoder(self.type)
        encoded = [encode(Entry(item)) for item in self.items]
        name = (string(2, self.set_name),)
        return element_messages(self.family, DEL_ELEMENTS, self.table, name, encoded)


class _ElementEncoder:
    """Encoder of the elements of one type of set."""

    def __init__(self, type_: SetType) -> None:
        self._key, self._value = components(type_)
        self._is_interval = type_.is_interval
        if type_.is_interval and len(self._key) == 1:
            # The ends of its ranges depend on the elements that the kernel already has.
            raise ValueError("elements of a set of plain ranges")

    def __call__(self, entry: Entry) -> bytes:
        value = b""
        if entry.verdict is not None:
            value = nested(2, verdict_data(entry.verdict.action, entry.verdict.chain))
        elif entry.data:
            value = data(2, encode_value(self._value, entry.data))
        if self._is_interval:
            return range_element(self._key, entry.item, value, entry.comment)
        return encode_element(encode_value(self._key, entry.item), value, entry.comment)


@lru_cache(256)
def _element_encoder(type_: SetType) -> _ElementEncoder:
    return _ElementEncoder(type_)
