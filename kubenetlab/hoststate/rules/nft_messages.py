"""nftables over netlink: what is said again and again for every endpoint of every Service, as messages and not as text.

libnftables takes twenty times as long to read a line as it takes to look up what the same line was for the node before. The lines known
here are those of kube-proxy's chains for Services; a text with any other is libnftables' as a whole. A line does not say of which type a set
is: none with a name may be one of ranges, whose ends are elements of their own.

message := nlmsghdr (16 bytes) | nfgenmsg (u8 family, u8 version, u16 resource) | attributes
Numbers in attributes are in network order, unlike rtnetlink's. Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h (6.12);
userdata, which is the program nft's own, as libnftables 1.0.6 writes it (libnftnl udata.h).
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
    drawn,
    expressions,
    packed,
    protocol_number,
    u32,
    verdict,
)
from kubenetlab.hoststate.rules.nft_objects import MAX_COMMENT
from kubenetlab.hoststate.wire import NLM_F_APPEND, NLM_F_CREATE, attribute, message, nested, string

MAX_LINES: Final = 16_384
"""So many lines are remembered: what a node of a thousand Services has."""
MAX_ELEMENTS: Final = 128
"""In one message: an attribute's length has 16 bits."""

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
_ANY_MAP = "__map%d"
"""The kernel gives a map without a name one of these."""
_ANY_MAP_USERDATA = bytes.fromhex("000401000000 010400000000 04080004010000000100 060400000000")
"""Keys in host order, values a verdict's."""
_FAITHFUL_USERDATA = bytes.fromhex("000402000000")
"""Keys in network order."""
_IDS = count(1)
"""Of sets and maps that a transaction makes."""
_KEY_END = struct.Struct(">B3xH2x")
"""Protocol and port, each filled up to four bytes."""

_CHAIN = re.compile(r'(\S+)(?: { comment "([^"]*)" ; })?')
_ELEMENTS = re.compile(r"(\S+) { (.*) }")
_ELEMENT = re.compile(
    r'([^ ",]+(?: \. [^ ",]+)*)(?: comment "([^"]*)")?(?: : (?:(goto|jump) )?([^ ",]+))?(?:, |$)'
)
_FAITHFUL = re.compile(r"(\S+) { type (\S+) ; flags dynamic,timeout ; timeout (\d+)s ; }")
_CHOICE = re.compile(r"numgen random mod (\d+) vmap { (.*) }")


@lru_cache(1)
def transaction(text: str) -> tuple[bytes, ...] | None:
    """The messages of all lines, for between `BEGIN` and `END`, those together that belong together; None when there is a line that is not
    known here."""
    found: list[bytes] = []
    for line in text.removesuffix("\n").split("\n"):
        if (made := _messages(line)) is None:
            return None
        found += made
    return tuple(found)


def forget() -> None:
    """Drops what is remembered of texts and lines."""
    transaction.cache_clear()
    _messages.cache_clear()


def _framing(type_: int) -> bytes:
    return message(type_, 0, _NFGENMSG.pack(0, 0, _SUBSYSTEM))


BEGIN: Final = _framing(_BEGIN)
END: Final = _framing(_END)


@lru_cache(MAX_LINES)
def _messages(line: str) -> Sequence[bytes] | None:
    try:
        verb, what, family, table, rest = line.split(" ", 4)
        made = _FORMS[verb, what](family, table, rest)
        return made if isinstance(made, list) else (made,)
    except (
        LookupError,
        ValueError,
        struct.error,
    ):  # a word that is not known here, no address, no number
        return None


def _add_chain(family: str, table: str, rest: str) -> bytes:
    name, comment = _parts(_CHAIN, rest)
    return _message(
        family, _NEW_CHAIN, NLM_F_CREATE, table, string(3, name), _userdata(12, comment)
    )


def _take_away(type_: int, name_attribute: int, family: str, table: str, rest: str) -> bytes:
    """What is said with nothing but a name."""
    if not rest or " " in rest:
        raise UnknownError(rest)
    return _message(family, type_, 0, table, string(name_attribute, rest))


def _add_faithful(family: str, table: str, rest: str) -> bytes:
    """A set of clients that are faithful to an endpoint, filled by the packets."""
    name, type_, timeout_s = _parts(_FAITHFUL, rest)
    own_type, number = _ADDRESS_TYPES[family]
    if type_ != own_type:
        raise UnknownError(rest)
    declared = (
        string(2, name),
        u32(3, 0x30),  # NFT_SET_TIMEOUT | NFT_SET_EVAL
        u32(4, number),
        u32(5, ADDRESS_BYTES[family]),
        u32(10, next(_IDS)),
        attribute(11, struct.pack(">Q", int(timeout_s) * 1000)),
        attribute(13, _FAITHFUL_USERDATA),
    )
    return _message(family, _NEW_SET, NLM_F_CREATE, table, *declared)


def _change_elements(type_: int, family: str, table: str, rest: str) -> list[bytes]:
    name, items = _parts(_ELEMENTS, rest)
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
    before, made = (
        _choice(family, table, text)
        if text.startswith("numgen ")
        else (b"", expressions(family, text))
    )
    return before + _message(
        family,
        _NEW_RULE,
        NLM_F_CREATE | NLM_F_APPEND,
        table,
        string(2, chain),
        nested(4, made),
        _userdata(7, comment),
    )


_FORMS: Final[dict[tuple[str, str], Callable[[str, str, str], bytes | list[bytes]]]] = {
    ("add", "chain"): _add_chain,
    ("flush", "chain"): partial(_take_away, _DEL_RULE, 2),
    ("delete", "chain"): partial(_take_away, _DEL_CHAIN, 3),
    ("add", "set"): _add_faithful,
    ("delete", "set"): partial(_take_away, _DEL_SET, 2),
    ("add", "element"): partial(_change_elements, _NEW_ELEMENTS),
    ("delete", "element"): partial(_change_elements, _DEL_ELEMENTS),
    ("add", "rule"): _add_rule,
}
"""(verb, object) → the messages, from the family, the table, and the rest of the line; a list where each can be sent by itself."""


def _choice(family: str, table: str, text: str) -> tuple[bytes, bytes]:
    """A draw among endpoints: the map with the choices, which goes with its rule, and the rule's expressions."""
    total, choices = _parts(_CHOICE, text)
    elements = []
    for index, (key, comment, word, chain) in enumerate(_items(choices)):
        if key != str(index) or comment is not None or word is None:
            raise UnknownError(text)
        elements.append(
            nested(
                1,
                nested(1, attribute(1, struct.pack("=I", index))),
                nested(2, verdict(word, chain)),
            )
        )
    own = next(_IDS)
    declared = (
        string(2, _ANY_MAP),
        u32(3, 0xB),  # NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | NFT_SET_MAP
        u32(4, 4),  # an integer
        u32(5, 4),
        u32(6, 0xFFFFFF00),  # NFT_DATA_VERDICT
        u32(7, 0),
        u32(10, own),
        nested(9, u32(1, len(elements))),
        attribute(13, _ANY_MAP_USERDATA),
    )
    filled = _elements(family, _NEW_ELEMENTS, table, (string(2, _ANY_MAP), u32(4, own)), elements)
    return b"".join((_message(family, _NEW_SET, NLM_F_CREATE, table, *declared), *filled)), drawn(
        int(total), _ANY_MAP, own
    )


def _items(text: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """(key, comment, `goto` or `jump`, chain or another verdict) of each element."""
    at = 0
    while at < len(text):
        found = _ELEMENT.match(text, at)
        if found is None:
            raise UnknownError(text)
        key, comment, word, target = found.groups()
        yield key, comment, word, target
        at = found.end()


def _element(
    family: str, key: str, comment: str | None, word: str | None, target: str | None
) -> bytes:
    value = b"" if target is None else nested(2, verdict(word or target, target if word else None))
    return nested(1, nested(1, attribute(1, _key(family, key))), value, _userdata(6, comment))


def _key(family: str, text: str) -> bytes:
    """An address; an address, a protocol and a port; or a protocol and a port."""
    match text.split(" . "):
        case [address]:
            return packed(family, address)
        case [address, protocol, port]:
            return packed(family, address) + _KEY_END.pack(protocol_number(protocol), int(port))
        case [protocol, port]:
            return _KEY_END.pack(protocol_number(protocol), int(port))
    raise UnknownError(text)


def _elements(
    family: str, type_: int, table: str, place: Sequence[bytes], elements: Sequence[bytes]
) -> list[bytes]:
    flags = NLM_F_CREATE if type_ == _NEW_ELEMENTS else 0
    several = (elements[at : at + MAX_ELEMENTS] for at in range(0, len(elements), MAX_ELEMENTS))
    return [_message(family, type_, flags, table, *place, nested(3, *some)) for some in several]


def _message(family: str, type_: int, flags: int, table: str, *attributes: bytes) -> bytes:
    """In all of them the first attribute is the table."""
    return message(
        _SUBSYSTEM << 8 | type_, flags, b"".join((_of_table(family, table), *attributes))
    )


@lru_cache(64)
def _of_table(family: str, table: str) -> bytes:
    return _NFGENMSG.pack(FAMILIES[family], 0, 0) + string(1, table)


def _parts(form: re.Pattern[str], text: str) -> tuple[str, ...]:
    found = form.fullmatch(text)
    if found is None:
        raise UnknownError(text)
    return found.groups()


def _userdata(type_: int, comment: str | None) -> bytes:
    """A comment is nft's own matter: the kernel keeps it as a string behind its kind and its length."""
    if comment is None:
        return b""
    data = comment.encode() + b"\0"
    if len(data) > MAX_COMMENT:
        raise UnknownError(comment)
    return attribute(type_, bytes((0, len(data))) + data)
