"""Policy routing rules: the table in which the route of a packet is looked up.

Source: include/uapi/linux/fib_rules.h, net/core/fib_rules.c (6.12); iproute2 ip/iprule.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.ip import (
    AF_INET6,
    FAMILY_OF_VERSION,
    OUR_PROTOCOL,
    address_text,
)
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.message_classes import Attribute, MessageClass
from kubenetlab.hoststate.netlink.wire import Links, as_number, as_string, attributes, message
from kubenetlab.hoststate.object import Key, NetlinkObject, Object, ObjectMessages, ShellName
from kubenetlab.names import NODES

ANY_BIT: Final = 0xFFFFFFFF
"""Mask of a mark of which every bit counts."""
MAIN_TABLE: Final = 254
_RULE = MessageClass("pyroute2.netlink.rtnl.fibmsg", "fibmsg")
_RULE_HEADER = struct.Struct("=BBBBBxxBI")
"""family, destination length, source length, tos, table, action, flags"""
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 6, 10
_FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 15, 16, 21
_TO_TABLE, _INVERT = 1, 2
"""FR_ACT_TO_TBL and FIB_RULE_INVERT."""
_NO_MESSAGE_TABLE = 0
"""Table in the header if an attribute has its number."""


class PolicyRule(NetlinkObject, frozen=True):
    """A rule that looks up the routes of some packets in a table.

    Rules apply in the order of their priorities, the smallest first. A lab has one of each.
    """

    rank = 85

    version: int
    """IP version of the packets."""
    priority: int
    table: int
    mark: int = 0
    """Firewall mark of the packets; 0: any mark, if `mask` is 0, too."""
    mask: int = 0
    """Bits of the mark that count."""
    source: str = ""
    """Network of the packets' sources; empty: any."""
    destination: str = ""
    """Network of the packets' destinations; empty: any."""
    input_link: str = ""
    """Link by which the packets come in; `lo` for those of this machine; empty: any."""
    is_inverted: bool = False
    """True for all packets to which the selectors do not apply."""

    @property
    def key(self) -> Key:
        return ("PolicyRule", str(self.version), str(self.priority))

    def __str__(self) -> str:
        return f"rule{' -6' if self.version == 6 else ''} {self._words}"

    def create(self, links: Links) -> bytes:
        flags = wire.NLM_F_CREATE | wire.NLM_F_EXCL
        return self._request(wire.RTM_NEWRULE, flags, ("FRA_PROTOCOL", OUR_PROTOCOL))

    change = create

    def can_become(self, desired: Object) -> bool:
        """Return False: the kernel has no message that changes a rule."""
        return False

    def delete(self, links: Links) -> bytes:
        return self._request(wire.RTM_DELRULE, 0)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        family = " -6" if self.version == 6 else ""
        yield f"ip{family} -n {shell_name(self.netns)} rule add {self._words} protocol static"

    @property
    def _words(self) -> str:
        """Arguments of `ip rule add`."""
        parts = ["priority", str(self.priority)]
        parts += ["not"] if self.is_inverted else []
        parts += ["from", self.source] if self.source else []
        parts += ["to", self.destination] if self.destination else []
        if self.mask:
            mask = f"/{self.mask:#x}" if self.mask != ANY_BIT else ""
            parts += ["fwmark", f"{self.mark:#x}{mask}"]
        parts += ["iif", self.input_link] if self.input_link else []
        return " ".join([*parts, "lookup", "main" if self.table == MAIN_TABLE else str(self.table)])

    def _request(self, type_: int, flags: int, *settings: Attribute) -> bytes:
        fields = {
            "family": FAMILY_OF_VERSION[self.version],
            "table": _NO_MESSAGE_TABLE,
            "action": _TO_TABLE,
            "flags": _INVERT if self.is_inverted else 0,
        }
        attrs: list[Attribute] = [("FRA_PRIORITY", self.priority), ("FRA_TABLE", self.table)]
        for network, length, name in (
            (self.source, "src_len", "FRA_SRC"),
            (self.destination, "dst_len", "FRA_DST"),
        ):
            if network:
                address, _, bits = network.partition("/")
                fields[length] = int(bits)
                attrs.append((name, address))
        if self.mask:
            attrs += [("FRA_FWMARK", self.mark), ("FRA_FWMASK", self.mask)]
        if self.input_link:
            attrs.append(("FRA_IIFNAME", self.input_link))
        return _RULE.encode(type_, flags, fields, [*attrs, *settings])


def decode_policy_rule(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[PolicyRule, bool] | None:
    """Decode one RTM_NEWRULE message; return None for a rule with another action than a table.

    Return the rule and True if the lab created it.
    body: fib_rule_hdr (12 bytes) | attributes.
    """
    family, destination_length, source_length, _, table, action, flags = _RULE_HEADER.unpack_from(
        body
    )
    attrs = attributes(body[_RULE_HEADER.size :])
    if action != _TO_TABLE:
        return None

    def numeric(name: int, default: int = 0) -> int:
        return as_number(attrs[name]) if name in attrs else default

    def network(name: int, length: int) -> str:
        return f"{address_text(attrs[name])}/{length}" if name in attrs else ""

    rule = PolicyRule(
        netns,
        6 if family == AF_INET6 else 4,
        numeric(_FRA_PRIORITY),
        numeric(_FRA_TABLE, table),
        numeric(_FRA_FWMARK),
        numeric(_FRA_FWMASK),
        network(_FRA_SRC, source_length),
        network(_FRA_DST, destination_length),
        as_string(attrs[_FRA_IIFNAME]) if _FRA_IIFNAME in attrs else "",
        bool(flags & _INVERT),
    )
    return rule, numeric(_FRA_PROTOCOL) == OUR_PROTOCOL


POLICY_RULE_MESSAGES: Final = ObjectMessages(
    wire.RTM_NEWRULE,
    wire.RTM_DELRULE,
    message(wire.RTM_GETRULE, wire.NLM_F_DUMP, _RULE_HEADER.pack(0, 0, 0, 0, 0, 0, 0)),
    decode_policy_rule,
    netns_prefixes=(NODES,),
)
