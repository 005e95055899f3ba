"""Verdicts, and refusals with an ICMP message."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from kubenetlab.hoststate.netlink.wire import nested
from kubenetlab.hoststate.rules.nftables.encoding import (
    VERDICT_REGISTER,
    RuleContext,
    expression,
    u8,
    u32,
    verdict_data,
)
from kubenetlab.hoststate.rules.nftables.statements.statement import Statement

_ICMP_UNREACHABLE: Final = 0
"""NFT_REJECT_ICMP_UNREACH"""
_PORT_UNREACHABLE: Final = {"ip": 3, "ip6": 4}
"""ICMP_PORT_UNREACH and ICMPV6_PORT_UNREACH, which nft uses by default."""
_REJECT_CODES: Final = {
    "ip": {"icmp type net-unreachable": 0, "icmp type host-unreachable": 1},
    "ip6": {"icmpv6 type no-route": 0, "icmpv6 type addr-unreachable": 3},
}


class Verdict(Statement, frozen=True, gc=False):
    """End of a rule: `accept`, `drop`, `return`, or `jump` and `goto` with a chain."""

    action: str
    chain: str = ""

    def __str__(self) -> str:
        return f"{self.action} {self.chain}" if self.chain else self.action

    def encode(self, context: RuleContext) -> bytes:
        return _immediate(self.action, self.chain)


accept: Final = Verdict("accept")
drop: Final = Verdict("drop")
return_: Final = Verdict("return")


def jump(chain: str) -> Verdict:
    """Return the verdict that continues in a chain and comes back."""
    return Verdict("jump", chain)


def goto(chain: str) -> Verdict:
    """Return the verdict that continues in a chain."""
    return Verdict("goto", chain)


@lru_cache(64)
def _immediate(action: str, chain: str) -> bytes:
    return expression("immediate", u32(1, VERDICT_REGISTER), nested(2, verdict_data(action, chain)))


class Reject(Statement, frozen=True, gc=False):
    """Refusal with an ICMP message: `reject with icmp type host-unreachable`."""

    message: str = ""
    """Type in nft syntax; empty for `port-unreachable`."""

    def __str__(self) -> str:
        return f"reject with {self.message}" if self.message else "reject"

    def encode(self, context: RuleContext) -> bytes:
        code = (
            _REJECT_CODES[context.family][self.message]
            if self.message
            else _PORT_UNREACHABLE[context.family]
        )
        return expression("reject", u32(1, _ICMP_UNREACHABLE), u8(2, code))
