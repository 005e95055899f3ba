"""Packets that the policy engine ebpf drops, from the flow events of one node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Self

from kubenetlab.hoststate.rules.cilium_entries import (
    POLICY_DENIED,
    FlowEvent,
    rule_id,
    rule_names,
)
from kubenetlab.kernel.netlink.packet_log import LoggedPacket
from kubenetlab.kernel.rules.flow_events import FlowReader

_RULES: Final = "cilium_rules"
_ICMP: Final = ("1", "58")
"""Numbers of the protocols that are shown as ICMP."""


class PolicyDropReader:
    """Reader of the drops of one node."""

    def __init__(self, reader: FlowReader) -> None:
        self._reader = reader
        self._offset_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        """Difference between the clocks of packets and of events, in seconds."""

    @classmethod
    def open(cls, node: str, netns: str, home: int, lock: Path) -> Self:
        """Open the events of a node, from now on; see `FlowReader.open`. Raises LabError."""
        reader = FlowReader.open(node, netns, home, lock)
        reader.read()
        return cls(reader)

    def read(self) -> list[LoggedPacket]:
        """Return the packets dropped since the last call."""
        denied = [event for event in self._reader.read() if event.detail == POLICY_DENIED]
        names = rule_names(self._reader.entries(_RULES)) if denied else {}
        return [self._packet(event, names.get(rule_id(event.rule), "")) for event in denied]

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are events."""
        return self._reader.fileno()

    def close(self) -> None:
        self._reader.close()

    def _packet(self, event: FlowEvent, rule: str) -> LoggedPacket:
        return LoggedPacket(
            event.at_ns / 1e9 + self._offset_s,
            rule,
            "ICMP" if event.protocol in _ICMP else event.protocol,
            event.source,
            event.source_port,
            event.destination,
            event.destination_port,
        )
