"""Statements that act on a packet without ending the rule."""

from __future__ import annotations

from typing import Final, Literal

from kubenetlab.hoststate.netlink.wire import string
from kubenetlab.hoststate.rules.nftables.datatypes import DATA_TYPES
from kubenetlab.hoststate.rules.nftables.encoding import (
    REGISTER,
    RuleContext,
    data,
    expression,
    u16,
    u32,
    u64,
)
from kubenetlab.hoststate.rules.nftables.selectors import SELECTORS, bitwise, load
from kubenetlab.hoststate.rules.nftables.statements.statement import Statement

_META_MARK: Final = 3
"""NFT_META_MARK"""
_ALL_BITS: Final = 0xFFFFFFFF
_DYNSET_UPDATE: Final = 1
"""NFT_DYNSET_OP_UPDATE"""
_DF: Final = 0x4000
"""IP_DF, "don't fragment", with the fragment offset 0"""
_NETWORK_HEADER: Final = 1
"""NFT_PAYLOAD_NETWORK_HEADER"""
_FRAGMENT_OFFSET, _HEADER_CHECKSUM = 6, 10
"""Offsets in the IPv4 header."""
_CHECKSUM_INET: Final = 1
"""NFT_PAYLOAD_CSUM_INET"""


class SetMark(Statement, frozen=True, gc=False):
    """Change of the packet's mark: `mark set mark or 0x4000`."""

    operator: Literal["or", "xor"]
    bits: str
    """Number in nft syntax: `0x4000`."""

    def __str__(self) -> str:
        return f"mark set mark {self.operator} {self.bits}"

    def encode(self, context: RuleContext) -> bytes:
        bits, encode = int(self.bits, 0), DATA_TYPES["mark"].encode
        kept = _ALL_BITS if self.operator == "xor" else _ALL_BITS & ~bits
        return (
            load(context, SELECTORS["mark"])
            + bitwise(encode(str(kept)), encode(str(bits)))
            + expression("meta", u32(2, _META_MARK), u32(3, REGISTER))
        )


class ForbidFragments(Statement, frozen=True, gc=False):
    """Change of an IPv4 packet that sets the flag DF: `ip frag-off set 16384`."""

    def __str__(self) -> str:
        return f"ip frag-off set {_DF}"

    def encode(self, context: RuleContext) -> bytes:
        return expression(
            "immediate", u32(1, REGISTER), data(2, _DF.to_bytes(2, "big"))
        ) + expression(
            "payload",
            u32(5, REGISTER),
            u32(2, _NETWORK_HEADER),
            u32(3, _FRAGMENT_OFFSET),
            u32(4, 2),
            u32(6, _CHECKSUM_INET),
            u32(7, _HEADER_CHECKSUM),
        )


class UpdateSet(Statement, frozen=True, gc=False):
    """Element added or renewed by a packet: `update @clients { ip saddr }`."""

    selector: str
    set_name: str

    def __str__(self) -> str:
        return f"update @{self.set_name} {{ {self.selector} }}"

    def encode(self, context: RuleContext) -> bytes:
        return load(context, SELECTORS[self.selector]) + expression(
            "dynset", u32(4, REGISTER), u32(3, _DYNSET_UPDATE), string(1, self.set_name)
        )


class Counter(Statement, frozen=True, gc=False):
    """Count of packets and bytes: `counter`."""

    def __str__(self) -> str:
        return "counter"

    def encode(self, context: RuleContext) -> bytes:
        return expression("counter", u64(1, 0), u64(2, 0))


class Log(Statement, frozen=True, gc=False):
    """Copy of the packet's headers to a group of listeners: `log prefix "dropped" group 5`."""

    group: int
    """Number of the nfnetlink_log group."""
    prefix: str = ""

    def __str__(self) -> str:
        prefix = f'prefix "{self.prefix}" ' if self.prefix else ""
        return f"log {prefix}group {self.group}"

    def encode(self, context: RuleContext) -> bytes:
        prefix = string(2, self.prefix) if self.prefix else b""
        return expression("log", prefix, u16(1, self.group))
