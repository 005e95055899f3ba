"""Translation of addresses: a new destination, or the address of the outgoing interface."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from kubenetlab.hoststate.netlink.wire import string
from kubenetlab.hoststate.rules.nftables.anonymous import anonymous_address_map
from kubenetlab.hoststate.rules.nftables.datatypes import DATA_TYPES
from kubenetlab.hoststate.rules.nftables.encoding import (
    FAMILIES,
    REGISTER,
    RuleContext,
    data,
    expression,
    register,
    u32,
)
from kubenetlab.hoststate.rules.nftables.selectors import (
    NUMGEN_INCREMENTAL,
    NUMGEN_RANDOM,
    load_all,
    numgen,
    words_of,
)
from kubenetlab.hoststate.rules.nftables.statements.statement import Statement
from kubenetlab.names import socket_address

ADDRESS_TYPES: Final = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_NAT_DNAT: Final = 1
"""NFT_NAT_DNAT"""
_PORT_IS_GIVEN, _FULLY_RANDOM = 0x2, 0x10
"""NF_NAT_RANGE_PROTO_SPECIFIED, NF_NAT_RANGE_PROTO_RANDOM_FULLY"""
_PORT_REGISTER: Final = 2
"""NFT_REG_2"""
_PORT: Final = struct.Struct(">H")
_PORT_PADDING: Final = bytes(2)


class Dnat(Statement, frozen=True, gc=False):
    """New destination: `dnat to 10.244.1.5:80`."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"dnat to {socket_address(self.address, self.port)}"

    def encode(self, context: RuleContext) -> bytes:
        before, between, after = _dnat_parts(context.family)
        address = DATA_TYPES[ADDRESS_TYPES[context.family]].encode(self.address)
        return before + address + between + _PORT.pack(self.port) + after


@lru_cache(2)
def _dnat_parts(family: str) -> tuple[bytes, bytes, bytes]:
    """Return the bytes before, between and after the address and the port."""
    size = DATA_TYPES[ADDRESS_TYPES[family]].size
    address = expression("immediate", u32(1, REGISTER), data(2, bytes(size)))
    port = expression("immediate", u32(1, _PORT_REGISTER), data(2, bytes(_PORT.size)))
    return (
        address[:-size],
        port[: -_PORT.size - len(_PORT_PADDING)],
        _PORT_PADDING + _nat(family, _PORT_REGISTER, u32(7, _PORT_IS_GIVEN)),
    )


def _nat(family: str, port_register: int, flags: bytes = b"") -> bytes:
    """Encode the translation to the address in the first register and the port in another one."""
    return expression(
        "nat",
        u32(1, _NAT_DNAT),
        u32(2, FAMILIES[family]),
        u32(3, REGISTER),
        u32(5, port_register),
        flags,
    )


class DnatFromMap(Statement, frozen=True, gc=False):
    """New destination from a named map, whose last key is random.

    `dnat to ip daddr . tcp dport . numgen random mod 3 map @tcp-endpoints`
    """

    selectors: tuple[str, ...]
    modulus: int
    map_name: str

    def __str__(self) -> str:
        key = " . ".join((*self.selectors, f"numgen random mod {self.modulus}"))
        return f"dnat to {key} map @{self.map_name}"

    def encode(self, context: RuleContext) -> bytes:
        return (
            load_all(context, self.selectors)
            + numgen(NUMGEN_RANDOM, self.modulus, register(words_of(self.selectors)))
            + expression("lookup", u32(2, REGISTER), u32(3, REGISTER), string(1, self.map_name))
            + _nat(context.family, _port_register_after_address(context.family))
        )


class DnatInTurn(Statement, frozen=True, gc=False):
    """New destinations, used in turn: `dnat to numgen inc mod 2 map { 0 : 10.0.0.1 . 80, … }`."""

    targets: tuple[tuple[str, int], ...]
    """Addresses and ports."""

    def __str__(self) -> str:
        targets = ", ".join(
            f"{index} : {address} . {port}" for index, (address, port) in enumerate(self.targets)
        )
        return f"dnat to numgen inc mod {len(self.targets)} map {{ {targets} }}"

    def encode(self, context: RuleContext) -> bytes:
        name, map_id = anonymous_address_map(context, ADDRESS_TYPES[context.family], self.targets)
        return (
            numgen(NUMGEN_INCREMENTAL, len(self.targets))
            + expression(
                "lookup", u32(2, REGISTER), u32(3, REGISTER), string(1, name), u32(4, map_id)
            )
            + _nat(context.family, _port_register_after_address(context.family))
        )


def _port_register_after_address(family: str) -> int:
    """Return the register of the port in a concatenation of an address and a port."""
    return register(DATA_TYPES[ADDRESS_TYPES[family]].words)


class Masquerade(Statement, frozen=True, gc=False):
    """Source address of the outgoing interface: `masquerade fully-random`."""

    is_fully_random: bool = False
    """True to choose ports at random."""

    def __str__(self) -> str:
        return "masquerade fully-random" if self.is_fully_random else "masquerade"

    def encode(self, context: RuleContext) -> bytes:
        return expression("masq", u32(1, _FULLY_RANDOM) if self.is_fully_random else b"")
