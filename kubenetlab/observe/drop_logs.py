"""Logs of the packets that network policies drop, by which probes end without waiting.

A log only ever tells that a packet was dropped. Where a node has no log, because its policy engine
writes none or another process reads it, probes wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kubenetlab.errors import LabError
from kubenetlab.kernel.netlink.packet_log import LoggedPacket
from kubenetlab.kernel.rules.policy_drops import DropLog, open_log
from kubenetlab.kernel.syscalls import inside_network

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


def logging_nodes(seen: Inspection) -> tuple[str, ...]:
    """Return the paths of the network namespaces of all nodes that run."""
    return tuple(node["netns"] for node in seen["nodes"] if node["netns"])


class DropLogs:
    """Listeners of the logs of some nodes."""

    def __init__(self, nodes: Sequence[str], home: int) -> None:
        """Begin to listen, where no other process does.

        nodes: paths of their network namespaces.
        home: descriptor of this process's network namespace.
        """
        self._logs: dict[int, DropLog] = {}
        for path in nodes:
            try:
                node = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                with inside_network(node, home):
                    log = open_log()
            except (LabError, OSError):
                continue
            self._logs[log.fileno()] = log

    @property
    def descriptors(self) -> Iterable[int]:
        """File descriptors that are readable when a packet was dropped."""
        return self._logs.keys()

    def read(self, descriptor: int) -> Iterable[LoggedPacket]:
        """Return the packets of one log since the last call."""
        return self._logs[descriptor].read()

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
