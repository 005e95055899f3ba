"""Reader of the flow events of one node: the ring buffer that the programs of cilium fill.

The programs are found by way of the link cilium_host. A ring buffer has one reader at a time, and
what is read is removed from it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from kubenetlab.errors import LabError
from kubenetlab.hoststate.rules import bpf, cilium
from kubenetlab.hoststate.rules.bpf_entries import as_address, protocol_name
from kubenetlab.hoststate.rules.bpf_programs import ProgramSet
from kubenetlab.hoststate.rules.cilium_entries import (
    IS_SERVICE,
    LOST,
    TRANSLATED,
    TRANSLATED_KEY,
    FlowEvent,
)
from kubenetlab.kernel.rules.libbpf import Libbpf, LoadedPrograms
from kubenetlab.kernel.rules.tc_links import TcLinks
from kubenetlab.kernel.syscalls import inside_network

__all__ = ["FlowEvent", "FlowReader", "Translation"]

Translation = tuple[str, int, str, int, str]
"""(client, its port, server, its port, protocol) of a connection to a Service, as servers see it"""
EVENTS: Final = "cilium_events"
_LOST_EVENTS: Final = "cilium_lost"
_FIRST: Final = bytes(4)
"""Key of the only entry of an array."""
MOMENT_S: Final = 1.0
"""Time to wait for a reader that ends by itself, in seconds."""


def _is_locked(descriptor: int) -> bool:
    """Lock a file; return False if another process keeps it locked.

    A reader that does not watch has the lock for a moment, which is waited for.
    """
    deadline = time.monotonic() + MOMENT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(MOMENT_S / 20)  # the kernel reports no change of a lock
        else:
            return True


class FlowReader:
    """Reader of the events of one node."""

    def __init__(
        self, node: str, programs: LoadedPrograms, services: LoadedPrograms | None
    ) -> None:
        self.node = node
        self._programs = programs
        self._services = services
        """Programs of kube-proxy's mode ebpf, which translate addresses of Services."""
        self._events = programs.read_events(EVENTS)
        self._lock = -1
        self._netns = ("", 0)
        """Path of the node's network namespace, and its inode."""

    @classmethod
    def open(cls, node: str, netns: str, home: int, lock: Path) -> Self:
        """Open the events of a node.

        netns: path of the node's network namespace. home: descriptor of the caller's.
        lock: file that only one reader of the node locks at a time.
        Raises LabError if the node has no such programs, or another process reads its events.
        """
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _is_locked(descriptor):
            os.close(descriptor)
            raise LabError(
                f"node {node}: another `kubenetlab flows` reads its events, which have one reader "
                "at a time; end that one, or select another node with --node"
            )
        try:
            namespace = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            inode = os.fstat(namespace).st_ino
            with inside_network(namespace, home):
                programs, services = (
                    attached_programs(cilium.PROGRAMS),
                    attached_programs(bpf.PROGRAMS),
                )
            if programs is None or EVENTS not in programs.maps:
                raise LabError(
                    f"node {node}: no programs of cilium are attached to its links; see: kubenetlab"
                    " diff"
                )
            reader = cls(node, programs, services)
        except BaseException:
            os.close(descriptor)
            raise
        reader._lock = descriptor
        reader._netns = netns, inode
        return reader

    @property
    def has_ended(self) -> bool:
        """True if the node has ended, or has restarted with programs that have another buffer."""
        path, inode = self._netns
        try:
            return os.stat(path).st_ino != inode
        except OSError:
            return True

    def read(self) -> list[FlowEvent]:
        """Return all unread events, the oldest first."""
        return [FlowEvent.decode(data) for data in self._events.read()]

    def take_lost(self) -> int:
        """Return the number of events lost since the last call, by any reader."""
        value = self._programs.value(_LOST_EVENTS, _FIRST)
        (lost,) = LOST.unpack(value) if value is not None else (0,)
        if lost:
            self._programs.set(_LOST_EVENTS, _FIRST, LOST.pack(0))
        return int(lost)

    def translations(self) -> Iterator[tuple[Translation, tuple[str, int]]]:
        """Yield each connection to a Service, and the address and port to which it was opened."""
        if self._services is None or bpf.PROGRAMS.flow_map not in self._services.maps:
            return
        for key, value in self._services.entries(bpf.PROGRAMS.flow_map):
            source, destination, source_port, port, flags, _ = TRANSLATED.unpack_from(value)
            if flags & IS_SERVICE:
                _, first, _, first_port, protocol, _ = TRANSLATED_KEY.unpack_from(key)
                ends = (*_end(source, source_port), *_end(destination, port))
                yield (*ends, protocol_name(protocol)), _end(first, first_port)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are events."""
        return self._events.fileno()

    def close(self) -> None:
        self._events.close()
        self._programs.close()
        if self._services is not None:
            self._services.close()
        os.close(self._lock)


def _end(address: bytes, port: bytes) -> tuple[str, int]:
    return str(as_address(address)), int.from_bytes(port, "big")


def attached_programs(programs: ProgramSet) -> LoadedPrograms | None:
    """Return the programs of a set that are attached in the current network namespace."""
    links = TcLinks(programs)
    try:
        ids = {
            filter_.name: filter_.program_id
            for index in links.links().values()
            for filter_ in links.filters(index)
            if filter_.name in programs.places
        }
    finally:
        links.close()
    return Libbpf().open_loaded(ids) if ids else None
