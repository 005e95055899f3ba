"""Verdicts that a map or chance selects."""

from __future__ import annotations

import struct
from functools import lru_cache

from kubenetlab.hoststate.netlink.wire import string
from kubenetlab.hoststate.rules.nftables.anonymous import anonymous_verdict_map
from kubenetlab.hoststate.rules.nftables.encoding import (
    REGISTER,
    VERDICT_REGISTER,
    RuleContext,
    expression,
    u32,
)
from kubenetlab.hoststate.rules.nftables.selectors import NUMGEN_RANDOM, load_all, numgen
from kubenetlab.hoststate.rules.nftables.statements.statement import Statement

_MAP_ID = struct.Struct(">I")


class MapVerdict(Statement, frozen=True, gc=False):
    """Verdict from a named map: `ip daddr . meta l4proto . th dport vmap @service-ips`."""

    selectors: tuple[str, ...]
    map_name: str

    def __str__(self) -> str:
        return f"{' . '.join(self.selectors)} vmap @{self.map_name}"

    def encode(self, context: RuleContext) -> bytes:
        return load_all(context, self.selectors) + expression(
            "lookup", u32(2, REGISTER), u32(3, VERDICT_REGISTER), string(1, self.map_name)
        )


class RandomVerdict(Statement, frozen=True, gc=False):
    """Jump to one of several chains, all equally likely: `numgen random mod 2 vmap { … }`."""

    chains: tuple[str, ...]

    def __str__(self) -> str:
        choices = ", ".join(f"{index} : goto {chain}" for index, chain in enumerate(self.chains))
        return f"numgen random mod {len(self.chains)} vmap {{ {choices} }}"

    def encode(self, context: RuleContext) -> bytes:
        name, map_id = anonymous_verdict_map(context, self.chains)
        return _random_lookup(len(self.chains), name) + _MAP_ID.pack(map_id)


@lru_cache(64)
def _random_lookup(modulus: int, name: str) -> bytes:
    """Return the expressions without the id of the map, which is at their end."""
    lookup = expression(
        "lookup", u32(2, REGISTER), u32(3, VERDICT_REGISTER), string(1, name), u32(4, 0)
    )
    return numgen(NUMGEN_RANDOM, modulus) + lookup[: -_MAP_ID.size]
