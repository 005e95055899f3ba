"""Selectors: properties of a packet or connection that statements compare and look up.

A selector is written as in nft: `ip saddr`, `meta l4proto`, `ct state`. To add one, add a line to
SELECTORS. Source: include/uapi/linux/netfilter/nf_tables.h (6.12) for the expressions; nftables
include/{proto,expression}.h (1.0.6) for the numbers that describe selectors in a set's user data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate.rules.nftables.datatypes import BYTEORDER_BIG, DATA_TYPES, DataType
from kubenetlab.hoststate.rules.nftables.encoding import (
    REGISTER,
    RuleContext,
    data,
    expression,
    register,
    tlv,
    tlv_u32,
    u32,
)

_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
"""NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER"""
_META_MARK, _META_IIFNAME, _META_OIFNAME, _META_L4PROTO = 3, 6, 7, 16
"""`enum nft_meta_keys`"""
_CT_STATE, _CT_STATUS = 0, 2
"""`enum nft_ct_keys`"""
_FIB_SOURCE, _FIB_DESTINATION, _FIB_RESULT_TYPE = 1, 2, 3
"""NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE"""
_BYTEORDER_HTON = 1
"""NFT_BYTEORDER_HTON"""
_CMP_LTE, _CMP_GTE = 3, 5
"""`enum nft_cmp_ops`"""
NUMGEN_INCREMENTAL, NUMGEN_RANDOM = 0, 1
"""`enum nft_ng_types`"""

EXPR_VERDICT, EXPR_PAYLOAD, EXPR_CONCAT, EXPR_NUMGEN = 1, 7, 13, 23
"""`enum expr_types`: nft's description of how the key of a set is computed."""
_DESC_UDP, _DESC_TCP, _DESC_SCTP, _DESC_TH, _DESC_IP, _DESC_IP6 = 6, 8, 10, 11, 12, 13
"""`enum proto_desc_id`"""
_TYPEOF_EXPRESSION, _TYPEOF_DATA = 0, 1
"""NFTNL_UDATA_SET_TYPEOF_EXPR, NFTNL_UDATA_SET_TYPEOF_DATA"""
_PAYLOAD_DESC, _PAYLOAD_FIELD = 0, 1
"""NFTNL_UDATA_SET_KEY_PAYLOAD_DESC, NFTNL_UDATA_SET_KEY_PAYLOAD_TYPE"""
_NUMGEN_TYPE, _NUMGEN_MODULUS, _NUMGEN_OFFSET = 0, 1, 2
"""NFTNL_UDATA_NUMGEN_TYPE, _MOD and _OFFSET"""


class Selector(Struct, frozen=True, gc=False):
    """Expression that loads a property of a packet into a register."""

    type: DataType
    load: Callable[[int, int], bytes]
    """Return the expression that loads the first bytes of the value: (register, bytes)."""
    typeof: bytes = b""
    """Description in the user data of a set; empty if nft has none in use here."""
    protocol: str = ""
    """Transport protocol that the packet must have."""
    is_payload: bool = False
    """True for bytes of the packet, of which a part can be loaded."""


def load(
    context: RuleContext, selector: Selector, register_: int = REGISTER, size: int = 0
) -> bytes:
    """Encode the load of a selector; match its transport protocol first, unless that is done.

    size: number of bytes; 0 for the whole value.
    """
    return require_protocol(context, selector) + selector.load(
        register_, size or selector.type.size
    )


def require_protocol(context: RuleContext, selector: Selector) -> bytes:
    """Encode the match of a selector's transport protocol; empty if nothing has to be matched."""
    if not selector.protocol or context.protocol == selector.protocol:
        return b""
    if context.protocol:
        raise ValueError(f"{selector.protocol} after {context.protocol}")
    context.protocol = selector.protocol
    return match_protocol(selector.protocol)


@lru_cache(16)
def match_protocol(protocol: str) -> bytes:
    """Encode the comparison of the transport protocol."""
    selector = SELECTORS["meta l4proto"]
    return selector.load(REGISTER, 1) + compare(selector.type.encode(protocol))


def load_all(context: RuleContext, names: Sequence[str], *, is_interval: bool = False) -> bytes:
    """Encode the load of concatenated selectors into consecutive registers.

    is_interval: convert to network order, for the look-up in a set of ranges.
    """
    required = [require_protocol(context, SELECTORS[name]) for name in names]
    return b"".join(required) + _consecutive_loads(tuple(names), is_interval)


@lru_cache(64)
def _consecutive_loads(names: tuple[str, ...], is_interval: bool) -> bytes:
    result, word = b"", 0
    for name in names:
        selector = SELECTORS[name]
        result += selector.load(register(word), selector.type.size)
        if is_interval and selector.type.byteorder != BYTEORDER_BIG:
            result += _to_network_order(register(word), selector.type.size)
        word += selector.type.words
    return result


def _to_network_order(register_: int, size: int) -> bytes:
    """Encode the conversion of a number to network order; a single byte stays as it is."""
    width = 2 if size <= 2 else 4
    return expression(
        "byteorder",
        u32(1, register_),
        u32(2, register_),
        u32(3, _BYTEORDER_HTON),
        u32(4, size),
        u32(5, width),
    )


def words_of(names: Sequence[str]) -> int:
    """Return the number of 32-bit registers that concatenated selectors take."""
    return sum(SELECTORS[name].type.words for name in names)


def compare(value: bytes, *, is_negated: bool = False) -> bytes:
    """Encode the comparison of the register with a value (NFT_CMP_EQ, NFT_CMP_NEQ)."""
    return expression("cmp", u32(1, REGISTER), u32(2, int(is_negated)), data(3, value))


def compare_range(first: bytes, last: bytes) -> bytes:
    """Encode the comparison of the register with both ends of a range."""
    return b"".join(
        expression("cmp", u32(1, REGISTER), u32(2, operator), data(3, value))
        for operator, value in ((_CMP_GTE, first), (_CMP_LTE, last))
    )


def mask(value: bytes) -> bytes:
    """Encode the bitwise AND of the register with a mask."""
    return bitwise(value, bytes(len(value)))


def bitwise(mask_: bytes, flip: bytes) -> bytes:
    """Encode `register = (register & mask) ^ flip`."""
    return expression(
        "bitwise",
        u32(1, REGISTER),
        u32(2, REGISTER),
        u32(3, len(mask_)),
        data(4, mask_),
        data(5, flip),
    )


def numgen(type_: int, modulus: int, register_: int = REGISTER) -> bytes:
    """Encode the load of a number below `modulus`, at random or in turn."""
    return expression("numgen", u32(1, register_), u32(2, modulus), u32(3, type_), u32(4, 0))


def typeof_numgen(type_: int, modulus: int) -> bytes:
    """Describe a number below `modulus` in the user data of a set."""
    return _typeof(
        EXPR_NUMGEN,
        tlv_u32(_NUMGEN_TYPE, type_)
        + tlv_u32(_NUMGEN_MODULUS, modulus)
        + tlv_u32(_NUMGEN_OFFSET, 0),
    )


def typeof_concat(components: Sequence[bytes]) -> bytes:
    """Describe a concatenation; without components only that there is one."""
    return _typeof(
        EXPR_CONCAT, b"".join(tlv(index, value) for index, value in enumerate(components))
    )


def typeof_verdict() -> bytes:
    """Describe a verdict as the value of a map."""
    return _typeof(EXPR_VERDICT, b"")


def _typeof(kind: int, description: bytes) -> bytes:
    return tlv_u32(_TYPEOF_EXPRESSION, kind) + tlv(_TYPEOF_DATA, description)


def _payload(
    type_: str,
    base: int,
    offset: int,
    description: tuple[int, int] | None = None,
    protocol: str = "",
) -> Selector:
    """Return the selector of a field of a header.

    description: numbers of the header and of the field in nft.
    """
    typeof = (
        _typeof(
            EXPR_PAYLOAD,
            tlv_u32(_PAYLOAD_DESC, description[0]) + tlv_u32(_PAYLOAD_FIELD, description[1]),
        )
        if description
        else b""
    )
    return Selector(
        DATA_TYPES[type_],
        lambda register_, size: expression(
            "payload", u32(1, register_), u32(2, base), u32(3, offset), u32(4, size)
        ),
        typeof,
        protocol,
        is_payload=True,
    )


def _meta(type_: str, key: int) -> Selector:
    return Selector(
        DATA_TYPES[type_],
        lambda register_, size: expression("meta", u32(2, key), u32(1, register_)),
    )


def _ct(type_: str, key: int) -> Selector:
    return Selector(
        DATA_TYPES[type_],
        lambda register_, size: expression("ct", u32(2, key), u32(1, register_)),
    )


def _fib(flags: int) -> Selector:
    return Selector(
        DATA_TYPES["fib_addrtype"],
        lambda register_, size: expression(
            "fib", u32(3, flags), u32(2, _FIB_RESULT_TYPE), u32(1, register_)
        ),
    )


SELECTORS: Final[Mapping[str, Selector]] = {
    "ip saddr": _payload("ipv4_addr", _NETWORK_HEADER, 12, (_DESC_IP, 11)),
    "ip daddr": _payload("ipv4_addr", _NETWORK_HEADER, 16, (_DESC_IP, 12)),
    "ip6 saddr": _payload("ipv6_addr", _NETWORK_HEADER, 8, (_DESC_IP6, 8)),
    "ip6 daddr": _payload("ipv6_addr", _NETWORK_HEADER, 24, (_DESC_IP6, 9)),
    "th dport": _payload("inet_service", _TRANSPORT_HEADER, 2, (_DESC_TH, 2)),
    "tcp sport": _payload("inet_service", _TRANSPORT_HEADER, 0, (_DESC_TCP, 1), "tcp"),
    "tcp dport": _payload("inet_service", _TRANSPORT_HEADER, 2, (_DESC_TCP, 2), "tcp"),
    "udp dport": _payload("inet_service", _TRANSPORT_HEADER, 2, (_DESC_UDP, 2), "udp"),
    "sctp dport": _payload("inet_service", _TRANSPORT_HEADER, 2, (_DESC_SCTP, 2), "sctp"),
    "th sport": _payload("inet_service", _TRANSPORT_HEADER, 0, (_DESC_TH, 1)),
    "icmp type": _payload("icmp_type", _TRANSPORT_HEADER, 0, protocol="icmp"),
    "icmp code": _payload("icmp_code", _TRANSPORT_HEADER, 1, protocol="icmp"),
    "icmpv6 type": _payload("icmpv6_type", _TRANSPORT_HEADER, 0, protocol="icmpv6"),
    "icmpv6 code": _payload("icmpv6_code", _TRANSPORT_HEADER, 1, protocol="icmpv6"),
    "meta l4proto": _meta("inet_proto", _META_L4PROTO),
    "iifname": _meta("ifname", _META_IIFNAME),
    "oifname": _meta("ifname", _META_OIFNAME),
    "mark": _meta("mark", _META_MARK),
    "ct state": _ct("ct_state", _CT_STATE),
    "ct status": _ct("ct_status", _CT_STATUS),
    "fib saddr type": _fib(_FIB_SOURCE),
    "fib daddr type": _fib(_FIB_DESTINATION),
}
"""Selectors by their name in nft syntax."""
