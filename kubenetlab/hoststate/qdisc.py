"""Queueing disciplines that limit, delay or drop what a link sends: tbf and netem.

A rate alone is kept by tbf, which every kernel has. Delay and loss need netem, which keeps a rate,
too.

Source: include/uapi/linux/pkt_sched.h, net/sched/{sch_api,sch_tbf,sch_netem}.c (6.12); iproute2
tc/q_tbf.c, tc/q_netem.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import (
    Attributes,
    LinkIndexes,
    Links,
    as_number,
    as_string,
    attribute,
    attributes,
    message,
    number,
    string,
)
from kubenetlab.hoststate.object import Key, LinkedObject, Object, ObjectMessages, ShellName
from kubenetlab.names import FABRIC_SWITCH, NODES

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
_TCMSG = struct.Struct("=BxxxiIII")
"""family, interface index, handle, parent, info"""
_TCA_KIND, _TCA_OPTIONS = 1, 2
_ROOT: Final = 0xFFFFFFFF
_OUR_HANDLE: Final = 0x6B6E0000
"""Handle 6b6e:, by which the lab recognizes its own."""
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_TBF_OPTIONS = struct.Struct("=BBHhHI12xIII")
"""rate (cell log, link layer, overhead, alignment, smallest packet, bytes per second), no peak
rate, limit in bytes, buffer, mtu"""
_ETHERNET: Final = 1
"""TC_LINKLAYER_ETHERNET: the kernel computes times itself instead of reading a table."""
_LATENCY_S: Final = 0.05
"""Longest time that a packet waits for its turn in tbf."""
_MIN_BURST_BYTES: Final = 32 * 1024
_BURST_S: Final = 0.01
_NETEM_RATE, _NETEM_LATENCY64, _NETEM_RATE64 = 6, 10, 8
_NETEM_OPTIONS = struct.Struct("=6I")
"""latency in ticks (LATENCY64 counts), limit in packets, loss, gap, duplicates, jitter"""
_NETEM_RATES = struct.Struct("=IiIi")
"""bytes per second, overhead per packet, cell size, overhead per cell"""
_NETEM_LIMIT: Final = 10_000
"""Packets that netem holds, enough for 100 ms at 1 Gbit/s."""
_ALL_PACKETS: Final = 2**32 - 1
_MAX_RATE: Final = 2**32 - 1
"""Largest rate in bytes per second that fits into the old attribute."""

_MILLION: Final = 1_000_000


class Qdisc(LinkedObject, frozen=True):
    """A queueing discipline at the root of a link: its rate, delay and loss."""

    rank = 65

    rate_bits: int = 0
    """Maximum rate in bits per second; 0: no limit."""
    delay_us: int = 0
    """Delay of each packet in microseconds."""
    loss_ppm: int = 0
    """Dropped packets of a million."""

    @property
    def kind(self) -> Literal["tbf", "netem"]:
        """The kernel's name of the discipline."""
        return "netem" if self.delay_us or self.loss_ppm else "tbf"

    @property
    def key(self) -> Key:
        return ("Qdisc", self.link)

    def __str__(self) -> str:
        return f"qdisc {self.kind} dev {self.link} {self._words}"

    def create(self, links: Links) -> bytes:
        return message(RTM_NEWQDISC, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, self._body(links))

    change = create

    def can_become(self, desired: Object) -> bool:
        """Return True if the discipline is of the same kind."""
        return isinstance(desired, Qdisc) and self.kind == desired.kind

    def delete(self, links: Links) -> bytes:
        return message(RTM_DELQDISC, 0, self._header(links))

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns = shell_name(self.netns)
        queue = f" burst {self._burst} latency {_LATENCY_S * 1000:g}ms"
        rest = queue if self.kind == "tbf" else f" limit {_NETEM_LIMIT}"
        place = f"dev {self.link} root handle {_OUR_HANDLE >> 16:x}:"
        yield f"tc -n {netns} qdisc replace {place} {self.kind} {self._words}{rest}"

    @property
    def _words(self) -> str:
        """Settings as arguments of `tc qdisc`."""
        parts = [f"delay {self.delay_us / 1000:g}ms"] if self.delay_us else []
        parts += [f"loss {self.loss_ppm / 10_000:g}%"] if self.loss_ppm else []
        parts += [f"rate {_rate_text(self.rate_bits)}"] if self.rate_bits else []
        return " ".join(parts)

    @property
    def _burst(self) -> int:
        """Bytes that tbf sends at once."""
        return max(_MIN_BURST_BYTES, int(self.rate_bits / 8 * _BURST_S))

    def _header(self, links: LinkIndexes) -> bytes:
        return _TCMSG.pack(0, links.index(self.netns, self.link), _OUR_HANDLE, _ROOT, 0)

    def _body(self, links: LinkIndexes) -> bytes:
        options = self._tbf() if self.kind == "tbf" else self._netem()
        return self._header(links) + string(_TCA_KIND, self.kind) + attribute(_TCA_OPTIONS, options)

    def _tbf(self) -> bytes:
        rate = self.rate_bits // 8
        limit = min(self._burst + int(rate * _LATENCY_S), _MAX_RATE)
        fields = (0, _ETHERNET, 0, 0, 0, min(rate, _MAX_RATE), limit, 0, 0)
        options = attribute(_TBF_PARMS, _TBF_OPTIONS.pack(*fields))
        options += number(_TBF_BURST, self._burst)
        return options + (_number64(_TBF_RATE64, rate) if rate > _MAX_RATE else b"")

    def _netem(self) -> bytes:
        rate = self.rate_bits // 8
        loss = min(round(self.loss_ppm * 2**32 / _MILLION), _ALL_PACKETS)
        options = _NETEM_OPTIONS.pack(0, _NETEM_LIMIT, loss, 0, 0, 0)
        options += _number64(_NETEM_LATENCY64, self.delay_us * 1000)
        options += attribute(_NETEM_RATE, _NETEM_RATES.pack(min(rate, _MAX_RATE), 0, 0, 0))
        return options + (_number64(_NETEM_RATE64, rate) if rate > _MAX_RATE else b"")


def _number64(type_: int, value: int) -> bytes:
    return attribute(type_, struct.pack("=Q", value))


def _rate_text(bits: int) -> str:
    for factor, unit in ((10**9, "gbit"), (10**6, "mbit"), (10**3, "kbit")):
        if bits >= factor:
            return f"{bits / factor:g}{unit}"
    return f"{bits}bit"


def decode_qdisc(
    netns: str, body: memoryview, names: Mapping[int, str]
) -> tuple[Qdisc, bool] | None:
    """Decode one RTM_NEWQDISC message; return None for other disciplines than tbf and netem.

    Return the discipline and True if the lab created it.
    body: tcmsg (20 bytes) | attributes.
    names: link names by interface index; a missing index raises KeyError.
    """
    _, index, handle, parent, _ = _TCMSG.unpack_from(body)
    attrs = attributes(body[_TCMSG.size :])
    kind = as_string(attrs[_TCA_KIND])
    if parent != _ROOT or kind not in ("tbf", "netem") or _TCA_OPTIONS not in attrs:
        return None
    options = attrs[_TCA_OPTIONS]
    settings = _decode_tbf(options) if kind == "tbf" else _decode_netem(options)
    return Qdisc(netns, names[index], *settings), handle == _OUR_HANDLE


def _decode_tbf(options: memoryview) -> tuple[int, int, int]:
    """Return rate, delay and loss."""
    attrs = attributes(options)
    rate = _TBF_OPTIONS.unpack_from(attrs[_TBF_PARMS])[5]
    return 8 * _rate64(attrs, _TBF_RATE64, rate), 0, 0


def _decode_netem(options: memoryview) -> tuple[int, int, int]:
    """Return rate, delay and loss."""
    _, _, loss, _, _, _ = _NETEM_OPTIONS.unpack_from(options)
    attrs = attributes(options[_NETEM_OPTIONS.size :])
    rate = _NETEM_RATES.unpack_from(attrs[_NETEM_RATE])[0] if _NETEM_RATE in attrs else 0
    delay_ns = as_number(attrs[_NETEM_LATENCY64]) if _NETEM_LATENCY64 in attrs else 0
    loss_ppm = round(loss * _MILLION / 2**32)
    return 8 * _rate64(attrs, _NETEM_RATE64, rate), delay_ns // 1000, loss_ppm


def _rate64(attrs: Attributes, type_: int, rate: int) -> int:
    return as_number(attrs[type_]) if type_ in attrs else rate


QDISC_MESSAGES: Final = ObjectMessages(
    RTM_NEWQDISC,
    RTM_DELQDISC,
    message(RTM_GETQDISC, wire.NLM_F_DUMP, _TCMSG.pack(0, 0, 0, 0, 0)),
    decode_qdisc,
    netns_prefixes=(NODES, FABRIC_SWITCH),
)
