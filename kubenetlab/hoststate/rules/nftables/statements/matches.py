"""Matches: a rule continues only for packets with a property."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network

from kubenetlab.hoststate.netlink.wire import string
from kubenetlab.hoststate.rules.nftables.anonymous import anonymous_set
from kubenetlab.hoststate.rules.nftables.datatypes import DATA_TYPES
from kubenetlab.hoststate.rules.nftables.encoding import REGISTER, RuleContext, expression, u32
from kubenetlab.hoststate.rules.nftables.selectors import (
    SELECTORS,
    compare,
    compare_range,
    load,
    load_all,
    mask,
    match_protocol,
    require_protocol,
)
from kubenetlab.hoststate.rules.nftables.statements.statement import Statement

_INVERTED = 1
"""NFT_LOOKUP_F_INV"""
_PORT = DATA_TYPES["inet_service"]
_INTERFACES = ("iifname", "oifname")
"""Selectors whose values are quoted in nft syntax."""


class Match(Statement, frozen=True, gc=False):
    """Comparison with one value: `ip daddr 10.96.0.0/16`, `iifname != "veth*"`, `ct state new`.

    A port may be a range: `th dport 1000-2000`.
    """

    selector: str
    value: str
    """Value, network, flags separated by commas, or an interface name that may end with `*`."""
    is_negated: bool = False

    def __str__(self) -> str:
        inverted = "!= " if self.is_negated else ""
        if self.selector in _INTERFACES:
            return f'{self.selector} {inverted}"{self.value}"'
        return f"{self.selector} {inverted}{self.value}"

    def encode(self, context: RuleContext) -> bytes:
        selector = SELECTORS[self.selector]
        if self.selector == "meta l4proto" and not self.is_negated:
            context.protocol = self.value
            return match_protocol(self.value)
        required = require_protocol(context, selector) if selector.protocol else b""
        if "/" in self.value:
            return required + _network_comparison(self.selector, self.value, self.is_negated)
        if selector.type.number == _PORT.number and "-" in self.value and not self.is_negated:
            first, last = map(_PORT.encode, self.value.split("-"))
            return required + selector.load(REGISTER, _PORT.size) + compare_range(first, last)
        value = selector.type.encode(self.value)
        if selector.type.is_bitmask and not self.is_negated:
            return required + _any_flag(self.selector, value)
        before, after = _comparison_parts(self.selector, self.is_negated, len(value))
        return required + before + value + after


@lru_cache(64)
def _comparison_parts(name: str, is_negated: bool, size: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after the value in the expressions that compare with it.

    The value is at the end, followed by its padding to four bytes.
    """
    selector = SELECTORS[name]
    encoded = compare(bytes(size), is_negated=is_negated)
    padding = -size & 3
    return selector.load(REGISTER, selector.type.size) + encoded[
        : len(encoded) - size - padding
    ], bytes(padding)


@lru_cache(64)
def _network_comparison(name: str, text: str, is_negated: bool) -> bytes:
    """Encode a comparison with a network; one of whole bytes needs no mask."""
    selector, network = SELECTORS[name], ip_network(text)
    address = selector.type.encode(str(network.network_address))
    whole_bytes, remaining_bits = divmod(network.prefixlen, 8)
    if whole_bytes and not remaining_bits and selector.is_payload:
        return selector.load(REGISTER, whole_bytes) + compare(
            address[:whole_bytes], is_negated=is_negated
        )
    return (
        selector.load(REGISTER, selector.type.size)
        + mask(network.netmask.packed)
        + compare(address, is_negated=is_negated)
    )


@lru_cache(64)
def _any_flag(name: str, flags: bytes) -> bytes:
    """Encode the match of packets that have at least one of the flags."""
    selector = SELECTORS[name]
    return (
        selector.load(REGISTER, selector.type.size)
        + mask(flags)
        + compare(bytes(len(flags)), is_negated=True)
    )


class MatchPair(Statement, frozen=True, gc=False):
    """Comparison of two adjacent fields of a header: `th sport 22 th dport 80`.

    nft compares them in one step, wherever they are in a rule.
    """

    first: Match
    """Comparison with one value, not negated."""
    second: Match
    """Comparison of the field that follows."""

    def __str__(self) -> str:
        return f"{self.first} {self.second}"

    def encode(self, context: RuleContext) -> bytes:
        selector, other = SELECTORS[self.first.selector], SELECTORS[self.second.selector]
        value = selector.type.encode(self.first.value) + other.type.encode(self.second.value)
        return load(context, selector, size=len(value)) + compare(value)


class Masked(Statement, frozen=True, gc=False):
    """Comparison of some bits: `mark and 0x4000 == 0`, `ct status & dnat == 0`."""

    selector: str
    mask: str
    value: str = "0"

    def __str__(self) -> str:
        operator = "and" if self.selector == "mark" else "&"
        return f"{self.selector} {operator} {self.mask} == {self.value}"

    def encode(self, context: RuleContext) -> bytes:
        selector = SELECTORS[self.selector]
        value = DATA_TYPES["integer"].encode(self.value)
        return load(context, selector) + mask(selector.type.encode(self.mask)) + compare(value)


class InSet(Statement, frozen=True, gc=False):
    """Look-up in a named set: `ip saddr . ip daddr @hairpin`."""

    selectors: tuple[str, ...]
    set_name: str
    is_negated: bool = False
    is_interval: bool = False
    """True if the keys of the set are ranges."""

    def __str__(self) -> str:
        inverted = "!= " if self.is_negated else ""
        return f"{' . '.join(self.selectors)} {inverted}@{self.set_name}"

    def encode(self, context: RuleContext) -> bytes:
        flags = u32(5, _INVERTED) if self.is_negated else b""
        return load_all(context, self.selectors, is_interval=self.is_interval) + expression(
            "lookup", u32(2, REGISTER), string(1, self.set_name), flags
        )


class OneOf(Statement, frozen=True, gc=False):
    """Comparison with several values or networks: `ip saddr != { 10.0.0.0/8, 192.0.2.1 }`."""

    selector: str
    values: tuple[str, ...]
    is_negated: bool = False

    def __str__(self) -> str:
        inverted = "!= " if self.is_negated else ""
        return f"{self.selector} {inverted}{{ {', '.join(self.values)} }}"

    def encode(self, context: RuleContext) -> bytes:
        """Encode the look-up in an anonymous set; a single value is compared, as nft does it."""
        if len(self.values) == 1:
            return Match(self.selector, self.values[0], self.is_negated).encode(context)
        selector = SELECTORS[self.selector]
        loaded = load(context, selector)
        name, set_id = anonymous_set(context, selector, self.values)
        flags = u32(5, _INVERTED) if self.is_negated else b""
        return loaded + expression(
            "lookup", u32(2, REGISTER), string(1, name), u32(4, set_id), flags
        )
