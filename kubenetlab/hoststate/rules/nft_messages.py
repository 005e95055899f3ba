"""Encoder of nft commands to nftables netlink messages, with a cache of encoded lines.

Nodes have the same lines for every endpoint of every Service. libnftables takes twenty times as
long to parse a line as a lookup of the line encoded for the previous node takes. Only the commands
for kube-proxy's chains for Services are supported; libnftables has to run a text with any other
line. A line does not contain the type of a set, so the encoder must not be used with named sets of
ranges, whose range ends are elements of their own.

message := nlmsghdr (16 bytes) | nfgenmsg (u8 family, u8 version, u16 resource) | attributes
Numbers in attributes are in network order, unlike rtnetlink's.
Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h (6.12). Userdata is private to nft; its
format is that of libnftables 1.0.6 (libnftnl udata.h).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import count
from typing import Final

from kubenetlab.hoststate.rules.nft_expressions import (
    ADDRESS_BYTES,
    FAMILIES,
    UnknownError,
    expressions,
    packed,
    protocol_number,
    random_map_lookup,
    u32,
    verdict,
)
from kubenetlab.hoststate.rules.nft_objects import MAX_COMMENT
from kubenetlab.hoststate.wire import NLM_F_APPEND, NLM_F_CREATE, attribute, message, nested, string

MAX_LINES: Final = 16_384
"""Maximum number of cached lines: the number of lines of a node with a thousand Services."""
MAX_ELEMENTS: Final = 128
"""Maximum number of elements in one message: the length of an attribute has 16 bits."""

_SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES"""
_BEGIN, _END = 16, 17
_NEW_CHAIN, _DEL_CHAIN, _NEW_RULE, _DEL_RULE, _NEW_SET, _DEL_SET, _NEW_ELEMENTS, _DEL_ELEMENTS = (
    3,
    5,
    6,
    8,
    9,
    11,
    12,
    14,
)
_NFGENMSG = struct.Struct(">BBH")
_ADDRESS_TYPES: Final = {"ip": ("ipv4_addr", 7), "ip6": ("ipv6_addr", 8)}
_ANONYMOUS_MAP = "__map%d"
"""Name template of anonymous maps; the kernel fills in a number."""
_ANONYMOUS_MAP_USERDATA = bytes.fromhex(
    "000401000000 010400000000 04080004010000000100 060400000000"
)
"""Userdata of a map with keys in host order and verdicts as values."""
_AFFINITY_SET_USERDATA = bytes.fromhex("000402000000")
"""Userdata of a set with keys in network order."""
_IDS = count(1)
"""Ids of sets and maps that a transaction creates."""
_KEY_END = struct.Struct(">B3xH2x")
"""Protocol and port, each padded to four bytes."""

_CHAIN = re.compile(r'(\S+)(?: { comment "([^"]*)" ; })?')
_ELEMENTS = re.compile(r"(\S+) { (.*) }")
_ELEMENT = re.compile(
    r'([^ ",]+(?: \. [^ ",]+)*)(?: comment "([^"]*)")?(?: : (?:(goto|jump) )?([^ ",]+))?(?:, |$)'
)
_AFFINITY_SET = re.compile(r"(\S+) { type (\S+) ; flags dynamic,timeout ; timeout (\d+)s ; }")
_CHOICE = re.compile(r"numgen random mod (\d+) vmap { (.*) }")


@lru_cache(1)
def transaction(text: str) -> tuple[bytes, ...] | None:
    """Return the messages of all lines, to be sent between `BEGIN` and `END`.

    Messages that have to be sent together are concatenated. Return None if a line is not supported.
    """
    all_messages: list[bytes] = []
    for line in text.removesuffix("\n").split("\n"):
        if (messages_of_line := _messages(line)) is None:
            return None
        all_messages += messages_of_line
    return tuple(all_messages)


def forget() -> None:
    """Clear the caches of texts and lines."""
    transaction.cache_clear()
    _messages.cache_clear()


def _framing(type_: int) -> bytes:
    return message(type_, 0, _NFGENMSG.pack(0, 0, _SUBSYSTEM))


BEGIN: Final = _framing(_BEGIN)
END: Final = _framing(_END)


@lru_cache(MAX_LINES)
def _messages(line: str) -> Sequence[bytes] | None:
    try:
        verb, object_type, family, table, rest = line.split(" ", 4)
        result = _ENCODERS[verb, object_type](family, table, rest)
        return result if isinstance(result, list) else (result,)
    except (LookupError, ValueError, struct.error):
        return None  # an unsupported word, or an invalid address or number


def _add_chain(family: str, table: str, rest: str) -> bytes:
    name, comment = _match(_CHAIN, rest)
    return _message(
        family, _NEW_CHAIN, NLM_F_CREATE, table, string(3, name), _userdata(12, comment)
    )


def _delete_named(type_: int, name_attribute: int, family: str, table: str, rest: str) -> bytes:
    """Encode a command that has only the name of an object."""
    if not rest or " " in rest:
        raise UnknownError(rest)
    return _message(family, type_, 0, table, string(name_attribute, rest))


def _add_affinity_set(family: str, table: str, rest: str) -> bytes:
    """Encode the set of an endpoint's clients for session affinity, which packets fill."""
    name, type_, timeout_s = _match(_AFFINITY_SET, rest)
    address_type, type_number = _ADDRESS_TYPES[family]
    if type_ != address_type:
        raise UnknownError(rest)
    set_attributes = (
        string(2, name),
        u32(3, 0x30),  # NFT_SET_TIMEOUT | NFT_SET_EVAL
        u32(4, type_number),
        u32(5, ADDRESS_BYTES[family]),
        u32(10, next(_IDS)),
        attribute(11, struct.pack(">Q", int(timeout_s) * 1000)),
        attribute(13, _AFFINITY_SET_USERDATA),
    )
    return _message(family, _NEW_SET, NLM_F_CREATE, table, *set_attributes)


def _change_elements(type_: int, family: str, table: str, rest: str) -> list[bytes]:
    name, items = _match(_ELEMENTS, rest)
    return _elements(
        family,
        type_,
        table,
        (string(2, name),),
        [_element(family, *item) for item in _items(items)],
    )


def _add_rule(family: str, table: str, rest: str) -> bytes:
    chain, _, text = rest.partition(" ")
    comment = None
    if text.endswith('"'):
        text, _, comment = text[:-1].rpartition(' comment "')
    map_messages, rule_expressions = (
        _random_choice(family, table, text)
        if text.startswith("numgen ")
        else (b"", expressions(family, text))
    )
    return map_messages + _message(
        family,
        _NEW_RULE,
        NLM_F_CREATE | NLM_F_APPEND,
        table,
        string(2, chain),
        nested(4, rule_expressions),
        _userdata(7, comment),
    )


_ENCODERS: Final[dict[tuple[str, str], Callable[[str, str, str], bytes | list[bytes]]]] = {
    ("add", "chain"): _add_chain,
    ("flush", "chain"): partial(_delete_named, _DEL_RULE, 2),
    ("delete", "chain"): partial(_delete_named, _DEL_CHAIN, 3),
    ("add", "set"): _add_affinity_set,
    ("delete", "set"): partial(_delete_named, _DEL_SET, 2),
    ("add", "element"): partial(_change_elements, _NEW_ELEMENTS),
    ("delete", "element"): partial(_change_elements, _DEL_ELEMENTS),
    ("add", "rule"): _add_rule,
}
"""Encoders by verb and type of object, called with the family, the table and the rest of the line.

A list contains messages that can be sent separately.
"""


def _random_choice(family: str, table: str, text: str) -> tuple[bytes, bytes]:
    """Encode a random choice of an endpoint.

    Return the messages that create the anonymous map of choices, and the expressions of the rule
    that uses it.
    """
    total, choices = _match(_CHOICE, text)
    elements = []
    for index, (key, comment, verdict_word, chain) in enumerate(_items(choices)):
        if key != str(index) or comment is not None or verdict_word is None:
            raise UnknownError(text)
        elements.append(
            nested(
                1,
                nested(1, attribute(1, struct.pack("=I", index))),
                nested(2, verdict(verdict_word, chain)),
            )
        )
    map_id = next(_IDS)
    map_attributes = (
        string(2, _ANONYMOUS_MAP),
        u32(3, 0xB),  # NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | NFT_SET_MAP
        u32(4, 4),  # an integer
        u32(5, 4),
        u32(6, 0xFFFFFF00),  # NFT_DATA_VERDICT
        u32(7, 0),
        u32(10, map_id),
        nested(9, u32(1, len(elements))),
        attribute(13, _ANONYMOUS_MAP_USERDATA),
    )
    element_messages = _elements(
        family, _NEW_ELEMENTS, table, (string(2, _ANONYMOUS_MAP), u32(4, map_id)), elements
    )
    return b"".join(
        (_message(family, _NEW_SET, NLM_F_CREATE, table, *map_attributes), *element_messages)
    ), random_map_lookup(int(total), _ANONYMOUS_MAP, map_id)


def _items(text: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Yield the key, comment, `goto` or `jump`, and chain or other verdict of each element."""
    offset = 0
    while offset < len(text):
        match = _ELEMENT.match(text, offset)
        if match is None:
            raise UnknownError(text)
        key, comment, verdict_word, target = match.groups()
        yield key, comment, verdict_word, target
        offset = match.end()


def _element(
    family: str, key: str, comment: str | None, verdict_word: str | None, target: str | None
) -> bytes:
    value = (
        b""
        if target is None
        else nested(2, verdict(verdict_word or target, target if verdict_word else None))
    )
    return nested(1, nested(1, attribute(1, _key(family, key))), value, _userdata(6, comment))


def _key(family: str, text: str) -> bytes:
    """Encode a key: an address, address and protocol and port, or protocol and port."""
    match text.split(" . "):
        case [address]:
            return packed(family, address)
        case [address, protocol, port]:
            return packed(family, address) + _KEY_END.pack(protocol_number(protocol), int(port))
        case [protocol, port]:
            return _KEY_END.pack(protocol_number(protocol), int(port))
    raise UnknownError(text)


def _elements(
    family: str, type_: int, table: str, set_attributes: Sequence[bytes], elements: Sequence[bytes]
) -> list[bytes]:
    flags = NLM_F_CREATE if type_ == _NEW_ELEMENTS else 0
    chunks = (
        elements[start : start + MAX_ELEMENTS] for start in range(0, len(elements), MAX_ELEMENTS)
    )
    return [
        _message(family, type_, flags, table, *set_attributes, nested(3, *chunk))
        for chunk in chunks
    ]


def _message(family: str, type_: int, flags: int, table: str, *attributes: bytes) -> bytes:
    """Return one message; its first attribute is the table."""
    return message(
        _SUBSYSTEM << 8 | type_, flags, b"".join((_table_header(family, table), *attributes))
    )


@lru_cache(64)
def _table_header(family: str, table: str) -> bytes:
    return _NFGENMSG.pack(FAMILIES[family], 0, 0) + string(1, table)


def _match(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.fullmatch(text)
    if match is None:
        raise UnknownError(text)
    return match.groups()


def _userdata(type_: int, comment: str | None) -> bytes:
    """Encode a comment as nft does: type, length and string; the kernel does not interpret it."""
    if comment is None:
        return b""
    data = comment.encode() + b"\0"
    if len(data) > MAX_COMMENT:
        raise UnknownError(comment)
    return attribute(type_, bytes((0, len(data))) + data)
