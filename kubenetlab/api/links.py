"""Settings of the links between nodes and the fabric: `fabric.links` of the Cluster document."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from kubenetlab.api.config import DEFAULT_MTU, ClusterConfig, FabricLink
from kubenetlab.api.values.durations import duration_s

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)([kmgKMG]?)(?:bit)?")
_FACTORS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_PERCENTAGE: Final = re.compile(r"(\d+(?:\.\d+)?)%")
ALL_NODES: Final = FabricLink().node
"""Name that stands for all nodes."""
MIN_MTU: Final = 1280
"""Smallest MTU of IPv6, in bytes (RFC 8200 §5)."""
MIN_RATE_BITS: Final = 8_000
"""A packet of 1,500 bytes takes 1.5 s at this rate."""
MAX_DELAY_S: Final = 10.0


class LinkSettings(Struct, frozen=True):
    """Settings of one node's link; rate, delay and loss apply to each direction by itself."""

    mtu: int = DEFAULT_MTU
    rate_bits: int = 0
    """Maximum rate in bits per second; 0: no limit."""
    delay_us: int = 0
    """Delay of each packet in microseconds."""
    loss_ppm: int = 0
    """Lost packets of a million."""

    @property
    def is_shaped(self) -> bool:
        """True if a queueing discipline has to slow, delay or drop packets."""
        return bool(self.rate_bits or self.delay_us or self.loss_ppm)

    @property
    def needs_netem(self) -> bool:
        """True if packets are delayed or lost; a rate alone needs no network emulator."""
        return bool(self.delay_us or self.loss_ppm)


def link_settings(config: ClusterConfig, node: str) -> LinkSettings:
    """Return the settings of a node's link. A later entry replaces the fields that it has."""
    mtu, rate, delay, loss = 0, "", "", ""
    for link in config.fabric.links:
        if link.node in (ALL_NODES, node):
            mtu, rate = link.mtu or mtu, link.rate or rate
            delay, loss = link.delay or delay, link.loss or loss
    return LinkSettings(
        mtu or DEFAULT_MTU,
        parse_rate_bits(rate) or 0,
        round((duration_s(delay) or 0.0) * 1e6),
        parse_loss_ppm(loss) or 0,
    )


def parse_rate_bits(text: str) -> int | None:
    """Return a rate such as `100mbit`, `1.5gbit` or `10M` in bits per second.

    Return 0 for an empty text, and None for a text that is not a rate.
    """
    if not text:
        return 0
    match = _RATE.fullmatch(text)
    if match is None:
        return None
    return round(float(match[1]) * _FACTORS[match[2].lower()] / 8) * 8  # the kernel counts bytes


def parse_loss_ppm(text: str) -> int | None:
    """Return a percentage such as `0.5%` in packets of a million.

    Return 0 for an empty text, and None for a text that is not a percentage up to 100.
    """
    if not text:
        return 0
    match = _PERCENTAGE.fullmatch(text)
    if match is None or float(match[1]) > 100:
        return None
    return round(float(match[1]) * 10_000)
