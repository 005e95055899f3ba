"""What the kernel makes of a rule of nftables: expressions, which load, compare and act, one after the other, by way of registers.

The words known here are those of kube-proxy's chains for Services. Numbers are in network order. Source: include/uapi/linux/netfilter/nf_tables.h
(6.12); which expressions stand for which words, libnftables 1.0.6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network
from typing import Final

from kubenetlab.hoststate import ip
from kubenetlab.hoststate.wire import attribute, nested, string

FAMILIES: Final = {"ip": ip.AF_INET, "ip6": ip.AF_INET6}
ADDRESS_BYTES: Final = {"ip": 4, "ip6": 16}
_OFFSETS: Final = {
    ("ip", "saddr"): 12,
    ("ip", "daddr"): 16,
    ("ip6", "saddr"): 8,
    ("ip6", "daddr"): 24,
}
"""Where the addresses are in the packet's header."""
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_VERDICTS: Final = {"drop": 0, "accept": 1, "jump": -3, "goto": -4}
_LOCAL = struct.pack("=I", 2)
"""RTN_LOCAL"""

_INTERFACE_BYTES: Final = 16
"""IFNAMSIZ"""

_NUMBER = struct.Struct(">I")
_PORT = struct.Struct(">H")


class UnknownError(ValueError):
    """Words that are left to libnftables."""


def expressions(family: str, text: str) -> bytes:
    """A rule word by word: what it matches, and what then happens. Raises UnknownError, ValueError or LookupError for what is not known here."""
    words, at, found = text.split(" "), 0, b""
    while at < len(words):
        made, at = _READERS[words[at]](family, words, at)
        found += made
    return found


def drawn(total: int, map_name: str, map_id: int) -> bytes:
    """A random number below another one, and the verdict that a map has for it."""
    draw = expression("numgen", u32(1, 1), u32(2, total), u32(3, 1), u32(4, 0))
    return draw + expression("lookup", u32(2, 1), u32(3, 0), string(1, map_name), u32(4, map_id))


def verdict(word: str, chain: str | None = None) -> bytes:
    """Data that is a verdict: `drop`, or `goto` and a chain."""
    return nested(
        2, u32(1, _VERDICTS[word] & 0xFFFFFFFF), *(() if chain is None else (string(2, chain),))
    )


def packed(family: str, address: str) -> bytes:
    """The bytes of an address of this family."""
    number, found = ip.packed(address)
    if number != FAMILIES[family] or len(found) != ADDRESS_BYTES[family]:
        raise UnknownError(address)
    return found


def protocol_number(name: str) -> int:
    """`tcp` → 6."""
    return _PROTOCOLS[name]


def u32(type_: int, value: int) -> bytes:
    """An attribute with a number, in network order."""
    return attribute(type_, _NUMBER.pack(value))


def expression(name: str, *data: bytes) -> bytes:
    """An element of a rule's list of expressions."""
    return nested(1, string(1, name), nested(2, *data))


def _address(family: str, words: list[str], at: int) -> tuple[bytes, int]:
    """`ip saddr 10.244.1.2`, `ip daddr != 10.244.0.0/16`, `ip saddr @clients`"""
    own, field, value = words[at : at + 3]
    is_not = value == "!="
    if is_not:
        at += 1
        value = words[at + 2]
    if own != family:
        raise UnknownError(own)
    if value.startswith("@"):
        if is_not:
            raise UnknownError(value)
        return _loaded(family, field, ADDRESS_BYTES[family]) + expression(
            "lookup", u32(2, 1), string(1, value[1:])
        ), at + 3
    if "/" in value:
        return _in_network(family, field, value, is_not), at + 3
    before, after = _around_address(family, field, is_not)
    return before + packed(family, value) + after, at + 3


@lru_cache(64)
def _around_address(family: str, field: str, is_not: bool) -> tuple[bytes, bytes]:
    """What is before and behind the address in the expressions that compare with it."""
    size = ADDRESS_BYTES[family]
    before, after = _around(_compared(bytes(size), is_not=is_not), size)
    return _loaded(family, field, size) + before, after


@lru_cache(64)
def _in_network(family: str, field: str, text: str, is_not: bool) -> bytes:
    """Of a network that ends with a byte only whole bytes are looked at."""
    network = ip_network(text)
    address, (whole, rest) = (
        packed(family, str(network.network_address)),
        divmod(network.prefixlen, 8),
    )
    if not network.prefixlen:
        raise UnknownError(text)
    if not rest:
        return _loaded(family, field, whole) + _compared(address[:whole], is_not=is_not)
    mask, flip = (
        nested(4, attribute(1, network.netmask.packed)),
        nested(5, attribute(1, bytes(len(address)))),
    )
    masked = expression("bitwise", u32(1, 1), u32(2, 1), u32(3, len(address)), mask, flip)
    return _loaded(family, field, len(address)) + masked + _compared(address, is_not=is_not)


def _rewriting(family: str, words: list[str], at: int) -> tuple[bytes, int]:
    """`meta l4proto tcp dnat to 10.244.1.2:80`"""
    if (words[at + 1], *words[at + 3 : at + 5]) != ("l4proto", "dnat", "to"):
        raise UnknownError(words[at])
    address, _, port = words[at + 5].rpartition(":")
    if (address.startswith("[") and address.endswith("]")) != (family == "ip6"):
        raise UnknownError(address)
    before, between, after = _around_endpoint(family, words[at + 2])
    return before + packed(family, address.strip("[]")) + between + _PORT.pack(
        int(port)
    ) + after, at + 6


@lru_cache(64)
def _around_endpoint(family: str, protocol: str) -> tuple[bytes, bytes, bytes]:
    """What is before, between and behind the address and the port in the expressions that rewrite a packet."""
    is_protocol = expression("meta", u32(2, 16), u32(1, 1)) + _compared(
        bytes([_PROTOCOLS[protocol]])
    )
    before, between = _around(_immediate(1, bytes(ADDRESS_BYTES[family])), ADDRESS_BYTES[family])
    first, after = _around(_immediate(2, bytes(_PORT.size)), _PORT.size)
    rewritten = expression(
        "nat", u32(1, 1), u32(2, FAMILIES[family]), u32(3, 1), u32(5, 2), u32(7, 2)
    )  # NF_NAT_RANGE_PROTO_SPECIFIED
    return is_protocol + before, between + first, after + rewritten


def _local_source(family: str, words: list[str], at: int) -> tuple[bytes, int]:
    """`fib saddr type local`"""
    if words[at : at + 4] != ["fib", "saddr", "type", "local"]:
        raise UnknownError(words[at])
    return expression("fib", u32(3, 1), u32(2, 3), u32(1, 1)) + _compared(_LOCAL), at + 4


def _incoming(family: str, words: list[str], at: int) -> tuple[bytes, int]:
    """`iifname "cbr0"`, `iifname != "veth*"`"""
    is_not = words[at + 1] == "!="
    name = words[at + 1 + is_not]
    if not (len(name) > 2 and name.startswith('"') and name.endswith('"')):
        raise UnknownError(name)
    return _by_interface(name[1:-1].encode(), is_not), at + 2 + is_not


@lru_cache(64)
def _by_interface(name: bytes, is_not: bool) -> bytes:
    """Of the beginning of a name only its bytes are compared, of a whole name the zeros behind it too (IFNAMSIZ)."""
    value = name[:-1] if name.endswith(b"*") else name.ljust(_INTERFACE_BYTES, b"\0")
    if b"*" in value or len(value) > _INTERFACE_BYTES:
        raise UnknownError(name)
    return expression("meta", u32(2, 6), u32(1, 1)) + _compared(
        value, is_not=is_not
    )  # NFT_META_IIFNAME


def _remembered(family: str, words: list[str], at: int) -> tuple[bytes, int]:
    """`update @clients { ip saddr }`"""
    name = words[at + 1]
    if not name.startswith("@") or words[at + 2 : at + 6] != ["{", family, "saddr", "}"]:
        raise UnknownError(name)
    return _loaded(family, "saddr", ADDRESS_BYTES[family]) + expression(
        "dynset", u32(4, 1), u32(3, 1), string(1, name[1:])
    ), at + 6


def _going(family: str, words: list[str], at: int) -> tuple[bytes, int]:
    """`jump mark-for-masquerade`, at the end"""
    if len(words) != at + 2:
        raise UnknownError(words[at])
    return _goes(words[at], words[at + 1]), at + 2


@lru_cache(64)
def _goes(word: str, chain: str) -> bytes:
    return expression("immediate", u32(1, 0), nested(2, verdict(word, chain)))


_READERS: Final[dict[str, Callable[[str, list[str], int], tuple[bytes, int]]]] = {
    "ip": _address,
    "ip6": _address,
    "meta": _rewriting,
    "fib": _local_source,
    "iifname": _incoming,
    "update": _remembered,
    "jump": _going,
    "goto": _going,
}
"""First word → what it and those behind it are, and where they end."""


@lru_cache(64)
def _loaded(family: str, field: str, size: int) -> bytes:
    """The beginning of the packet's address goes into the first register."""
    return expression(
        "payload", u32(1, 1), u32(2, 1), u32(3, _OFFSETS[family, field]), u32(4, size)
    )


def _compared(value: bytes, *, is_not: bool = False) -> bytes:
    """The first register is a value, or is not."""
    return expression("cmp", u32(1, 1), u32(2, int(is_not)), nested(3, attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return expression("immediate", u32(1, register), nested(2, attribute(1, value)))


def _around(made: bytes, size: int) -> tuple[bytes, bytes]:
    """What is before and behind a value of some size at the end of an expression, filled up to four bytes."""
    padding = -size & 3
    return made[: len(made) - size - padding], bytes(padding)
