"""Encoder of nftables rules: translates the text of a rule to the kernel's expressions.

Expressions load values into registers, compare them and act, one after the other. Only the
statements in kube-proxy's chains for Services are supported. Numbers are in network order. Source:
include/uapi/linux/netfilter/nf_tables.h (6.12); libnftables 1.0.6 for the expressions of each
statement.
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
"""Offsets of the addresses in the packet's header, in bytes."""
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_VERDICTS: Final = {"drop": 0, "accept": 1, "jump": -3, "goto": -4}
_LOCAL = struct.pack("=I", 2)
"""RTN_LOCAL"""

_INTERFACE_BYTES: Final = 16
"""IFNAMSIZ"""

_NUMBER = struct.Struct(">I")
_PORT = struct.Struct(">H")


class UnknownError(ValueError):
    """Raised for text that this encoder does not support; libnftables has to parse it."""


def expressions(family: str, text: str) -> bytes:
    """Encode the text of a rule without its comment.

    Raises UnknownError, ValueError or LookupError for unsupported text.
    """
    words, position, result = text.split(" "), 0, b""
    while position < len(words):
        expression_bytes, position = _READERS[words[position]](family, words, position)
        result += expression_bytes
    return result


def random_map_lookup(total: int, map_name: str, map_id: int) -> bytes:
    """Encode `numgen random mod TOTAL vmap`: a map's verdict for a random number below `total`."""
    draw = expression("numgen", u32(1, 1), u32(2, total), u32(3, 1), u32(4, 0))
    return draw + expression("lookup", u32(2, 1), u32(3, 0), string(1, map_name), u32(4, map_id))


def verdict(word: str, chain: str | None = None) -> bytes:
    """Encode a verdict as data: `drop`, or `goto` and a chain."""
    return nested(
        2, u32(1, _VERDICTS[word] & 0xFFFFFFFF), *(() if chain is None else (string(2, chain),))
    )


def packed(family: str, address: str) -> bytes:
    """Encode an address; raise UnknownError if it does not belong to the family."""
    address_family, data = ip.packed(address)
    if address_family != FAMILIES[family] or len(data) != ADDRESS_BYTES[family]:
        raise UnknownError(address)
    return data


def protocol_number(name: str) -> int:
    """Return the number of a protocol; raise KeyError if it is not supported."""
    return _PROTOCOLS[name]


def u32(type_: int, value: int) -> bytes:
    """Encode a u32 attribute in network order."""
    return attribute(type_, _NUMBER.pack(value))


def expression(name: str, *data: bytes) -> bytes:
    """Encode one expression of a rule."""
    return nested(1, string(1, name), nested(2, *data))


def _read_address(family: str, words: list[str], position: int) -> tuple[bytes, int]:
    """Read `ip saddr 10.244.1.2`, `ip daddr != 10.244.0.0/16` or `ip saddr @clients`.

    Return the expressions and the position of the next word.
    """
    header, field, value = words[position : position + 3]
    is_negated = value == "!="
    if is_negated:
        position += 1
        value = words[position + 2]
    if header != family:
        raise UnknownError(header)
    if value.startswith("@"):
        if is_negated:
            raise UnknownError(value)
        return _load_address(family, field, ADDRESS_BYTES[family]) + expression(
            "lookup", u32(2, 1), string(1, value[1:])
        ), position + 3
    if "/" in value:
        return _network_comparison(family, field, value, is_negated), position + 3
    before, after = _address_comparison_parts(family, field, is_negated)
    return before + packed(family, value) + after, position + 3


@lru_cache(64)
def _address_comparison_parts(family: str, field: str, is_negated: bool) -> tuple[bytes, bytes]:
    """Return the bytes before and after the address in the expressions that compare with it."""
    size = ADDRESS_BYTES[family]
    before, after = _split_around_value(_compare(bytes(size), is_negated=is_negated), size)
    return _load_address(family, field, size) + before, after


@lru_cache(64)
def _network_comparison(family: str, field: str, text: str, is_negated: bool) -> bytes:
    """Encode a comparison with a network; one without partial bytes needs no bitmask."""
    network = ip_network(text)
    address, (whole_bytes, remaining_bits) = (
        packed(family, str(network.network_address)),
        divmod(network.prefixlen, 8),
    )
    if not network.prefixlen:
        raise UnknownError(text)
    if not remaining_bits:
        return _load_address(family, field, whole_bytes) + _compare(
            address[:whole_bytes], is_negated=is_negated
        )
    mask, flip = (
        nested(4, attribute(1, network.netmask.packed)),
        nested(5, attribute(1, bytes(len(address)))),
    )
    masked = expression("bitwise", u32(1, 1), u32(2, 1), u32(3, len(address)), mask, flip)
    return (
        _load_address(family, field, len(address))
        + masked
        + _compare(address, is_negated=is_negated)
    )


def _read_dnat(family: str, words: list[str], position: int) -> tuple[bytes, int]:
    """Read `meta l4proto tcp dnat to 10.244.1.2:80`."""
    if (words[position + 1], *words[position + 3 : position + 5]) != ("l4proto", "dnat", "to"):
        raise UnknownError(words[position])
    address, _, port = words[position + 5].rpartition(":")
    if (address.startswith("[") and address.endswith("]")) != (family == "ip6"):
        raise UnknownError(address)
    before, between, after = _dnat_parts(family, words[position + 2])
    return before + packed(family, address.strip("[]")) + between + _PORT.pack(
        int(port)
    ) + after, position + 6


@lru_cache(64)
def _dnat_parts(family: str, protocol: str) -> tuple[bytes, bytes, bytes]:
    """Return the bytes before, between and after the address and port in the dnat expressions."""
    is_protocol = expression("meta", u32(2, 16), u32(1, 1)) + _compare(
        bytes([_PROTOCOLS[protocol]])
    )
    before, between = _split_around_value(
        _immediate(1, bytes(ADDRESS_BYTES[family])), ADDRESS_BYTES[family]
    )
    first, after = _split_around_value(_immediate(2, bytes(_PORT.size)), _PORT.size)
    flags = u32(7, 2)  # NF_NAT_RANGE_PROTO_SPECIFIED
    dnat = expression("nat", u32(1, 1), u32(2, FAMILIES[family]), u32(3, 1), u32(5, 2), flags)
    return is_protocol + before, between + first, after + dnat


def _read_local_source(family: str, words: list[str], position: int) -> tuple[bytes, int]:
    """Read `fib saddr type local`."""
    if words[position : position + 4] != ["fib", "saddr", "type", "local"]:
        raise UnknownError(words[position])
    return expression("fib", u32(3, 1), u32(2, 3), u32(1, 1)) + _compare(_LOCAL), position + 4


def _read_input_interface(family: str, words: list[str], position: int) -> tuple[bytes, int]:
    """Read `iifname "cbr0"` or `iifname != "veth*"`."""
    is_negated = words[position + 1] == "!="
    name = words[position + 1 + is_negated]
    if not (len(name) > 2 and name.startswith('"') and name.endswith('"')):
        raise UnknownError(name)
    return _interface_comparison(name[1:-1].encode(), is_negated), position + 2 + is_negated


@lru_cache(64)
def _interface_comparison(name: bytes, is_negated: bool) -> bytes:
    """Encode a comparison with a link name, or with its prefix if it ends with `*`.

    A whole name is compared together with its padding of zeros (IFNAMSIZ).
    """
    value = name[:-1] if name.endswith(b"*") else name.ljust(_INTERFACE_BYTES, b"\0")
    if b"*" in value or len(value) > _INTERFACE_BYTES:
        raise UnknownError(name)
    return expression("meta", u32(2, 6), u32(1, 1)) + _compare(
        value, is_negated=is_negated
    )  # NFT_META_IIFNAME


def _read_set_update(family: str, words: list[str], position: int) -> tuple[bytes, int]:
    """Read `update @clients { ip saddr }`."""
    name = words[position + 1]
    if not name.startswith("@") or words[position + 2 : position + 6] != [
        "{",
        family,
        "saddr",
        "}",
    ]:
        raise UnknownError(name)
    return _load_address(family, "saddr", ADDRESS_BYTES[family]) + expression(
        "dynset", u32(4, 1), u32(3, 1), string(1, name[1:])
    ), position + 6


def _read_jump(family: str, words: list[str], position: int) -> tuple[bytes, int]:
    """Read `jump mark-for-masquerade` at the end of a rule."""
    if len(words) != position + 2:
        raise UnknownError(words[position])
    return _verdict_expression(words[position], words[position + 1]), position + 2


@lru_cache(64)
def _verdict_expression(word: str, chain: str) -> bytes:
    return expression("immediate", u32(1, 0), nested(2, verdict(word, chain)))


_READERS: Final[dict[str, Callable[[str, list[str], int], tuple[bytes, int]]]] = {
    "ip": _read_address,
    "ip6": _read_address,
    "meta": _read_dnat,
    "fib": _read_local_source,
    "iifname": _read_input_interface,
    "update": _read_set_update,
    "jump": _read_jump,
    "goto": _read_jump,
}
"""Readers by first word of a statement; each returns expressions and the next word's position."""


@lru_cache(64)
def _load_address(family: str, field: str, size: int) -> bytes:
    """Encode the load of the first `size` bytes of a packet's address into register 1."""
    return expression(
        "payload", u32(1, 1), u32(2, 1), u32(3, _OFFSETS[family, field]), u32(4, size)
    )


def _compare(value: bytes, *, is_negated: bool = False) -> bytes:
    """Encode the comparison of register 1 with a value."""
    return expression("cmp", u32(1, 1), u32(2, int(is_negated)), nested(3, attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return expression("immediate", u32(1, register), nested(2, attribute(1, value)))


def _split_around_value(encoded: bytes, size: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after a value of `size` bytes at the end of an expression.

    The bytes after the value are its padding to four bytes.
    """
    padding = -size & 3
    return encoded[: len(encoded) - size - padding], bytes(padding)
