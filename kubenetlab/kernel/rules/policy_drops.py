"""Logs of the packets that policies drop on a node: of netfilter, or of the programs of cilium."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import Final, Protocol

from kubenetlab.errors import LabError, RequirementError
from kubenetlab.hoststate.rules.cilium import HOST, PROGRAMS
from kubenetlab.hoststate.rules.cilium_entries import FlowEvent, rule_id, rule_names
from kubenetlab.kernel.netlink.packet_log import LoggedPacket, PacketLog
from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.kernel.rules.flow_events import attached_programs
from kubenetlab.kernel.rules.libbpf import LoadedPrograms
from kubenetlab.names import POLICY_LOG_GROUP

_DENIED: Final = "cilium_denied"
_RULES: Final = "cilium_rules"
_ICMP: Final = ("ICMP", "ICMPv6")
"""Protocols that logs of netfilter name ICMP."""


class DropLog(Protocol):
    """Log of the packets that the policies of a node drop."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are packets."""

    def read(self) -> Iterable[LoggedPacket]:
        """Return the packets since the last call."""

    def close(self) -> None: ...


def open_log(group: int = POLICY_LOG_GROUP) -> DropLog:
    """Open a log of the current network namespace, which has one reader at a time.

    group: log group of netfilter; the programs of cilium have one for dropped packets, which only
    root reads. Raises LabError.
    """
    log = PacketLog(group)
    if group != POLICY_LOG_GROUP or not is_root() or not _has_link(HOST):
        return log
    try:
        programs = attached_programs(PROGRAMS)
    except (OSError, RequirementError):
        programs = None
    if programs is None or _DENIED not in programs.maps:
        log.close()
        raise LabError("no programs of cilium are attached to its links; see: kubenetlab diff")
    return _ProgramDropLog(log, programs)


def _has_link(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


class _ProgramDropLog:
    """Log of the programs of cilium, from now on."""

    def __init__(self, lock: PacketLog, programs: LoadedPrograms) -> None:
        """Initialize the log.

        lock: log of netfilter, which other readers cannot open meanwhile.
        """
        self._lock = lock
        self._programs = programs
        self._events = programs.read_events(_DENIED)
        self._events.read()
        self._offset_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        """Difference between the clocks of packets and of events, in seconds."""

    def fileno(self) -> int:
        return self._events.fileno()

    def read(self) -> list[LoggedPacket]:
        events = [FlowEvent.decode(data) for data in self._events.read()]
        names = rule_names(dict(self._programs.entries(_RULES))) if events else {}
        return [self._packet(event, names.get(rule_id(event.rule), "")) for event in events]

    def close(self) -> None:
        self._events.close()
        self._programs.close()
        self._lock.close()

    def _packet(self, event: FlowEvent, rule: str) -> LoggedPacket:
        return LoggedPacket(
            event.at_ns / 1e9 + self._offset_s,
            rule,
            "ICMP" if event.protocol in _ICMP else event.protocol,
            event.source,
            event.source_port,
            event.destination,
            event.destination_port,
            event.echo,
        )
