"""Messages, attributes and user data of nftables in the netlink format.

message := nlmsghdr (16 bytes) | nfgenmsg (u8 family, u8 version, u16 resource) | attributes
Numbers in attributes are in network order, unlike rtnetlink's. The kernel stores user data without
interpretation; nft keeps comments there, and for sets what it needs to print elements.

user data := TLV*      TLV := u8 type | u8 length of the value | value
Numbers in user data are in host order.
Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h and net/netfilter/nf_tables_api.c
(6.12); libnftnl include/libnftnl/udata.h (1.2.4).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from typing import Final

from kubenetlab.hoststate import ip
from kubenetlab.hoststate.netlink.wire import (
    HEADER,
    NLA_F_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    attribute,
    message,
    nested,
    string,
)

FAMILIES: Final = {"ip": ip.AF_INET, "ip6": ip.AF_INET6}
MAX_COMMENT: Final = 128
"""NFTNL_UDATA_COMMENT_MAXLEN, with the terminating zero."""
MAX_ELEMENTS: Final = 128
"""Maximum number of elements in one message: the length of an attribute has 16 bits."""

SUBSYSTEM: Final = 10
"""NFNL_SUBSYS_NFTABLES"""
BATCH_BEGIN, BATCH_END = 16, 17
"""NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END"""
NEW_TABLE, DEL_TABLE = 0, 2
NEW_CHAIN, DEL_CHAIN = 3, 5
NEW_RULE, DEL_RULE = 6, 8
NEW_SET, DEL_SET = 9, 11
NEW_ELEMENTS, DEL_ELEMENTS = 12, 14
"""`enum nf_tables_msg_types`"""

VERDICT_REGISTER: Final = 0
"""NFT_REG_VERDICT"""
REGISTER: Final = 1
"""NFT_REG_1, which holds the value that a statement compares or looks up."""
_FIRST_32BIT_REGISTER: Final = 8
"""NFT_REG32_00, the first quarter of NFT_REG_1."""
_WORDS_OF_REGISTER: Final = 4

SET_ANONYMOUS, SET_CONSTANT, SET_INTERVAL, SET_MAP = 0x1, 0x2, 0x4, 0x8
SET_TIMEOUT, SET_EVAL, SET_CONCAT = 0x10, 0x20, 0x80
"""`enum nft_set_flags`"""

UDATA_COMMENT: Final = 0
"""NFTNL_UDATA_TABLE_COMMENT, _CHAIN_COMMENT, _RULE_COMMENT and _SET_ELEM_COMMENT"""
UDATA_ELEMENT_FLAGS: Final = 1
"""NFTNL_UDATA_SET_ELEM_FLAGS"""
ELEMENT_IS_OPEN: Final = 1
"""NFTNL_SET_ELEM_F_INTERVAL_OPEN: the range has no end element."""

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_HOST_U32: Final = struct.Struct("=I")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NFGENMSG: Final = struct.Struct(">BBH")
_SET_IDS: Final = count(1)


def u32(type_: int, value: int) -> bytes:
    """Encode a u32 attribute in network order."""
    return attribute(type_, _U32.pack(value))


def u8(type_: int, value: int) -> bytes:
    """Encode a u8 attribute."""
    return attribute(type_, bytes((value,)))


def u16(type_: int, value: int) -> bytes:
    """Encode a u16 attribute in network order."""
    return attribute(type_, _U16.pack(value))


def u64(type_: int, value: int) -> bytes:
    """Encode a u64 attribute in network order."""
    return attribute(type_, _U64.pack(value))


def data(type_: int, value: bytes) -> bytes:
    """Encode a value as data (NFTA_DATA_VALUE)."""
    return nested(type_, attribute(1, value))


def expression(name: str, *attributes: bytes) -> bytes:
    """Encode one expression of a rule (NFTA_LIST_ELEM with NFTA_EXPR_NAME and NFTA_EXPR_DATA)."""
    return nested(1, string(1, name), nested(2, *attributes))


_VERDICT_CODES: Final = {
    action: u32(1, code & 0xFFFFFFFF)
    for action, code in {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}.items()
}
"""NFTA_VERDICT_CODE with NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO and NFT_RETURN."""


def verdict_data(action: str, chain: str) -> bytes:
    """Encode a verdict as data (NFTA_DATA_VERDICT). Raises KeyError for an unknown action."""
    return nested(2, _VERDICT_CODES[action], string(2, chain) if chain else b"")


def register(word: int) -> int:
    """Return the number of the register that begins `word` 32-bit words after NFT_REG_1."""
    full, rest = divmod(word, _WORDS_OF_REGISTER)
    return _FIRST_32BIT_REGISTER + word if rest else REGISTER + full


def next_set_id() -> int:
    """Return an id, unique in this process, for a set that a transaction creates."""
    return next(_SET_IDS)


def tlv(type_: int, value: bytes) -> bytes:
    """Encode one TLV of user data. Raises ValueError if the value is too long."""
    return bytes((type_, len(value))) + value


def tlv_u32(type_: int, value: int) -> bytes:
    """Encode a number as a TLV."""
    return tlv(type_, _HOST_U32.pack(value))


def comment_tlv(type_: int, comment: str) -> bytes:
    """Encode a comment as user data; raise ValueError if it is too long."""
    value = comment.encode() + b"\0"
    if len(value) > MAX_COMMENT:
        raise ValueError(f"comment with {len(value)} bytes")
    return tlv(type_, value)


@lru_cache(256)
def commented(attribute_type: int, comment: str) -> bytes:
    """Encode the user data of an object that has only a comment; empty without one."""
    if not comment:
        return b""
    return attribute(attribute_type, comment_tlv(UDATA_COMMENT, storable(comment)))


def storable(comment: str) -> str:
    """Return a comment as nft can print it: without quotes, and cut if it is too long."""
    return comment.replace('"', "'").encode()[: MAX_COMMENT - 1].decode(errors="ignore")


def table_message(family: str, type_: int, flags: int, table: str, *attributes: bytes) -> bytes:
    """Return one message about a table or an object in it; the first attribute is the table."""
    body = b"".join((_table_header(family, table), *attributes))
    return (
        HEADER.pack(HEADER.size + len(body), SUBSYSTEM << 8 | type_, NLM_F_REQUEST | flags, 0, 0)
        + body
    )


@lru_cache(64)
def _table_header(family: str, table: str) -> bytes:
    return _NFGENMSG.pack(FAMILIES[family], 0, 0) + string(1, table)


def rule_encoder(family: str, table: str, chain: str) -> Callable[[bytes, bytes], bytes]:
    """Return a function that makes the message of a rule at the end of a chain.

    Its arguments are the expressions and the user data. Thousands of rules are encoded at a time,
    so what they have in common is encoded once.
    """
    start = _table_header(family, table) + string(2, chain)
    type_, flags = SUBSYSTEM << 8 | NEW_RULE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND
    fixed_size = HEADER.size + len(start) + _ATTRIBUTE.size
    expressions_type = 4 | NLA_F_NESTED  # NFTA_RULE_EXPRESSIONS

    def encode(expressions: bytes, userdata: bytes) -> bytes:
        size = len(expressions)
        return b"".join(
            (
                HEADER.pack(fixed_size + size + len(userdata), type_, flags, 0, 0),
                start,
                _ATTRIBUTE.pack(_ATTRIBUTE.size + size, expressions_type),
                expressions,
                userdata,
            )
        )

    return encode


def _framing(type_: int) -> bytes:
    return message(type_, 0, _NFGENMSG.pack(0, 0, SUBSYSTEM))


BEGIN: Final = _framing(BATCH_BEGIN)
END: Final = _framing(BATCH_END)


def element_messages(
    family: str, type_: int, table: str, set_attributes: Sequence[bytes], elements: Sequence[bytes]
) -> list[bytes]:
    """Return the messages that add or delete encoded elements of one set."""
    flags = NLM_F_CREATE if type_ == NEW_ELEMENTS else 0
    return [
        table_message(
            family,
            type_,
            flags,
            table,
            *set_attributes,
            nested(3, *elements[start : start + MAX_ELEMENTS]),
        )
        for start in range(0, len(elements), MAX_ELEMENTS)
    ]


class RuleContext:
    """State while the statements of one rule are encoded, in order."""

    __slots__ = ("family", "messages", "protocol", "table")

    def __init__(self, family: str, table: str) -> None:
        self.family = family
        self.table = table
        self.protocol = ""
        """Transport protocol that earlier statements have matched."""
        self.messages: list[bytes] = []
        """Messages that create the anonymous sets and maps of the rule."""

    def reset(self) -> None:
        """Begin the next rule."""
        self.protocol = ""
        if self.messages:
            self.messages = []
