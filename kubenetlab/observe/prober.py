"""Concurrent probes from one process: each packet leaves from a socket in the source's namespace.

Pings of a source share one ICMP socket per family; every connect has its own socket and its own
source port. One epoll loop waits for all of them, so that the time to wait for probes without an
answer passes once, however many they are. Errors that routers and kernels send back are read from
the sockets. Thus only silence takes the whole deadline; a refusal or a missing route is known at
once. So is a packet that a policy drops, from the log of the node.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.kernel.netlink.packet_log import LoggedPacket
from kubenetlab.kernel.ping_sockets import Echo, echo_of, sequence_number
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.observe.drop_logs import DropLogs
from kubenetlab.observe.probe_sockets import (
    Outcome,
    begin,
    open_socket,
    outcome_of,
    queued_errors,
    source_ports,
)
from kubenetlab.observe.targets.locations import Location

MAX_OPEN: Final = 16_384
"""Maximum number of concurrent connects.

It is large, because each probe without an answer keeps its socket until the end of its deadline.
"""
UNEXPECTED_ANSWER_S = 0.2
"""Time to wait for an answer to a probe without an expected answer, in seconds.

It is much longer than any answer takes inside one machine.
"""
_SENT_PER_DRAIN = 64
"""Number of probes sent before answers are read."""
_FREE_BEFORE_SENDING = 8
"""Part of the capacity that must be free before more probes are sent: 8 is an eighth."""
_ECHO_BYTES = 8
_OTHER_FILES = 64
"""Number of open files reserved for the rest of this process."""


class ProbeRequest(Struct, frozen=True):
    """One probe to send."""

    source: Location
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"]
    address: str
    port: int = 0
    expects_answer: bool = True
    """False if no answer is expected."""


class Result(Struct, frozen=True):
    """Result of one probe."""

    outcome: Outcome
    ms: float = 0.0
    """Time from sending to the answer, in milliseconds."""


def run(
    probes: Sequence[ProbeRequest], *, deadline_s: float = 1.0, nodes: Sequence[str] = ()
) -> list[Result]:
    """Return the result of each probe, in order.

    A probe without an answer `deadline_s` after it was sent is `silence`. A probe without an
    expected answer is `silence` after `UNEXPECTED_ANSWER_S`, once all earlier probes with an
    expected one have ended: a server that is still busy with those may answer it later.

    nodes: paths of the network namespaces of nodes. A probe whose packet a policy drops there is
        `silence` at once.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pingers = len(
        {
            (probe.source.netns_path, ":" in probe.address)
            for probe in probes
            if probe.protocol == "ICMP"
        }
    )
    capacity = max(1, min(MAX_OPEN, hard - pingers - _OTHER_FILES))
    return _Run(probes, deadline_s, capacity, nodes).run()


class _Waiting:
    """Probes that wait for an answer, the earliest first."""

    def __init__(self, results: Sequence[Result | None]) -> None:
        self._results = results
        self._sent: deque[tuple[float, int]] = deque()
        """(time of sending, index) of each probe; those that have a result are removed later."""

    def add(self, sent: float, index: int) -> None:
        self._sent.append((sent, index))

    @property
    def first_sent(self) -> float:
        """Time of sending of the earliest probe that still waits; infinity if there is none."""
        while self._sent and self._results[self._sent[0][1]] is not None:
            self._sent.popleft()
        return self._sent[0][0] if self._sent else inf

    def sent_until(self, end: float) -> Iterator[int]:
        """Remove the waiting probes that were sent until `end`, and yield their indexes."""
        while self.first_sent <= end:
            yield self._sent.popleft()[1]


class _Run:
    """Probes that are sent together."""

    def __init__(
        self,
        probes: Sequence[ProbeRequest],
        deadline_s: float,
        capacity: int,
        nodes: Sequence[str],
    ) -> None:
        self._probes = probes
        self._deadline_s = deadline_s
        self._capacity = capacity
        self._own_netns = open_namespace("net")
        self._results: list[Result | None] = [None] * len(probes)
        self._expecting, self._unexpecting = _Waiting(self._results), _Waiting(self._results)
        self._poll = select.epoll()
        self._pingers: dict[tuple[str, Echo], socket.socket] = {}
        """(path of the namespace, family) → ICMP socket."""
        self._echoes: dict[int, tuple[socket.socket, Echo]] = {}
        """File descriptor → ICMP socket, and its family."""
        self._pings: dict[tuple[int, int], tuple[int, float]] = {}
        """(file descriptor, sequence number) → (index of the probe, time of sending)."""
        self._connects: dict[int, tuple[int, socket.socket, float]] = {}
        """File descriptor → (index of the probe, socket, start time)."""
        self._descriptors: dict[int, int] = {}
        """Index of a probe → file descriptor of its connect."""
        self._drop_logs = DropLogs(nodes, self._own_netns)
        for descriptor in self._drop_logs.descriptors:
            self._poll.register(descriptor, select.EPOLLIN)
        self._flows: dict[tuple[str, str, int], int] = {}
        """(protocol, address, port) of a socket → index of its probe, if there are logs."""
        self._identified: dict[int, list[int]] = {}
        """Identifier of echo requests → file descriptors of the sockets that send it."""

    def run(self) -> list[Result]:
        try:
            self._send_connects()
            self._send_pings()
            while (wait_s := self._time_left()) is not None:
                self._drain(wait_s)
        finally:
            self._poll.close()
            self._drop_logs.close()
            os.close(self._own_netns)
            for open_socket_ in (
                *self._pingers.values(),
                *(entry[1] for entry in self._connects.values()),
            ):
                open_socket_.close()
        return [result or Result("silence") for result in self._results]

    # --- sending ---

    def _send_connects(self) -> None:
        """Open the ICMP sockets of each source, and begin its connects.

        Each namespace is entered once, or again when there is room for more sockets.
        """
        by_source: dict[str, list[int]] = {}
        for index, probe in enumerate(self._probes):
            by_source.setdefault(probe.source.netns_path, []).append(index)
        for number, (netns_path, indexes) in enumerate(by_source.items()):
            ports = source_ports(number)
            with self._inside(netns_path):
                self._open_pingers(netns_path, indexes)
                connects = [index for index in indexes if self._probes[index].protocol != "ICMP"]
                rest = self._connect_some(connects, ports)
            while rest:
                self._make_room()
                with self._inside(netns_path):
                    rest = self._connect_some(rest, ports)

    def _inside(self, netns_path: str) -> AbstractContextManager[None]:
        fd = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        return inside_network(fd, self._own_netns)

    def _make_room(self) -> None:
        """Wait until there is room for a number of sockets."""
        most = self._capacity - max(1, self._capacity // _FREE_BEFORE_SENDING)
        while len(self._connects) > most and (wait_s := self._time_left()) is not None:
            self._drain(wait_s)

    def _open_pingers(self, netns_path: str, indexes: Sequence[int]) -> None:
        families = (
            echo_of(self._probes[index].address)
            for index in indexes
            if self._probes[index].protocol == "ICMP"
        )
        for echo in dict.fromkeys(families):
            pinger = socket.socket(
                echo.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, echo.protocol
            )
            self._pingers[netns_path, echo] = pinger
            self._echoes[pinger.fileno()] = (pinger, echo)
            echo.keep_errors(pinger)
            pinger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._poll.register(pinger, select.EPOLLIN | select.EPOLLERR)

    def _connect_some(self, indexes: Sequence[int], ports: Iterator[int]) -> Sequence[int]:
        """Begin connects while there is room for their sockets, and return the others."""
        for position, index in enumerate(indexes):
            if len(self._connects) >= self._capacity:
                return indexes[position:]
            self._connect(index, ports)
            if position % _SENT_PER_DRAIN == _SENT_PER_DRAIN - 1:
                self._drain(0)
        return ()

    def _connect(self, index: int, ports: Iterator[int]) -> None:
        probe = self._probes[index]
        try:
            connection = open_socket(probe.protocol, probe.address, ports)
        except OSError as error:
            if error.errno != errno.EPROTONOSUPPORT:
                raise
            self._results[index] = Result("not testable")
            return
        is_stream = probe.protocol != "UDP"
        start = time.monotonic()
        code = begin(connection, probe.protocol, probe.address, probe.port)
        if code not in (0, errno.EINPROGRESS) or (is_stream and code == 0):
            self._results[index] = Result(outcome_of(code))
            connection.close()
            return
        fd = connection.fileno()
        self._poll.register(fd, select.EPOLLOUT if is_stream else select.EPOLLIN)
        self._connects[fd] = (index, connection, start)
        self._descriptors[index] = fd
        self._wait_for(index, start)
        if self._drop_logs.descriptors:
            source, port, *_ = connection.getsockname()
            self._flows[probe.protocol, source, port] = index

    def _send_pings(self) -> None:
        """Send all pings, ordered by destination so that no source sends a burst.

        Answers are read in between.
        """
        indexes = [index for index, probe in enumerate(self._probes) if probe.protocol == "ICMP"]
        numbers: dict[int, int] = {}
        for sent, index in enumerate(
            sorted(indexes, key=lambda index: self._probes[index].address)
        ):
            probe = self._probes[index]
            echo = echo_of(probe.address)
            pinger = self._pingers[probe.source.netns_path, echo]
            fd = pinger.fileno()
            numbers[fd] = number = numbers.get(fd, 0) + 1
            start = time.monotonic()
            self._pings[fd, number] = (index, start)
            self._wait_for(index, start)
            try:
                # Clear the pending error of an earlier ping, which sendto() would raise.
                pinger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                pinger.sendto(echo.request(number), (probe.address, 0))
            except OSError as error:
                self._finish_ping(fd, number, outcome_of(error.errno or 0))
            if number == 1 and self._drop_logs.descriptors:
                self._identified.setdefault(pinger.getsockname()[1], []).append(fd)
            if sent % _SENT_PER_DRAIN == 0:
                self._drain(0)

    # --- waiting ---

    def _wait_for(self, index: int, sent: float) -> None:
        expects = self._probes[index].expects_answer
        (self._expecting if expects else self._unexpecting).add(sent, index)

    def _time_left(self) -> float | None:
        """Return the time until the next probe ends without an answer; None if none is left."""
        expecting, unexpecting = self._expecting.first_sent, self._unexpecting.first_sent
        end = min(expecting, unexpecting) + self._deadline_s
        if unexpecting <= expecting:
            end = min(end, unexpecting + UNEXPECTED_ANSWER_S)
        return max(0.0, end - time.monotonic()) if end < inf else None

    def _end_silent(self, now: float) -> None:
        """End the probes whose time to wait for an answer is over."""
        for index in self._expecting.sent_until(now - self._deadline_s):
            self._end_without_answer(index)
        for index in self._unexpecting.sent_until(now - self._deadline_s):
            self._end_without_answer(index)
        # Every earlier probe with an expected answer must have ended.
        last = min(now - UNEXPECTED_ANSWER_S, self._expecting.first_sent)
        for index in self._unexpecting.sent_until(last):
            self._end_without_answer(index)

    def _end_without_answer(self, index: int) -> None:
        """Give a probe the result `silence`; close the socket of a connect."""
        self._results[index] = Result("silence")
        fd = self._descriptors.pop(index, None)
        if fd is not None:
            self._connects.pop(fd)[1].close()

    def _end_dropped(self, packet: LoggedPacket) -> None:
        """End the probe that has sent a packet which a policy has dropped."""
        if packet.protocol == "ICMP":
            self._end_dropped_ping(packet)
            return
        index = self._flows.get((packet.protocol, packet.source, packet.source_port))
        if index is None or self._results[index] is not None:
            return
        probe = self._probes[index]
        is_translated = (packet.destination, packet.destination_port) != (probe.address, probe.port)
        # Packets of pods may have the address of their node, so only its own are certain.
        if not (is_translated and probe.source.has_node_address):
            self._end_without_answer(index)

    def _end_dropped_ping(self, packet: LoggedPacket) -> None:
        identifier, number = packet.echo
        for fd in self._identified.get(identifier, ()):
            if (pending := self._pings.get((fd, number))) is not None:
                probe = self._probes[pending[0]]
                if probe.address == packet.destination and packet.source in probe.source.addresses:
                    self._finish_ping(fd, number, "silence")

    def _drain(self, wait_s: float) -> None:
        """Wait for answers, and read all; without any, end the probes whose time is over."""
        now = time.monotonic()
        events = self._poll.poll(wait_s)
        for fd, event in events:
            if fd in self._drop_logs.descriptors:
                for packet in self._drop_logs.read(fd):
                    self._end_dropped(packet)
            elif fd in self._echoes:
                self._receive(*self._echoes[fd], has_errors=bool(event & select.EPOLLERR))
            elif fd in self._connects:
                self._finish_connect(fd, has_errors=bool(event & select.EPOLLERR))
        if not events:
            # Answers that arrive from now on may have been under way when `now` was read.
            self._end_silent(now + wait_s)

    def _finish_connect(self, fd: int, *, has_errors: bool) -> None:
        """Record the result of a connect that has an answer or an error."""
        index, connection, start = self._connects.pop(fd)
        del self._descriptors[index]
        ended = time.monotonic()
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code and has_errors:
            echo = echo_of(self._probes[index].address)
            code = next((error for error, _ in queued_errors(connection, echo)), 0)
        self._results[index] = Result(outcome_of(code), (ended - start) * 1000)
        connection.close()

    def _receive(self, pinger: socket.socket, echo: Echo, *, has_errors: bool) -> None:
        if has_errors:
            for code, packet in queued_errors(pinger, echo):
                if len(packet) >= _ECHO_BYTES:
                    self._finish_ping(pinger.fileno(), sequence_number(packet), outcome_of(code))
        while True:
            try:
                data = pinger.recv(64)
            except OSError:
                return
            if (number := echo.replied(data)) is not None:
                self._finish_ping(pinger.fileno(), number, "answer")

    def _finish_ping(self, fd: int, number: int, outcome: Outcome) -> None:
        pending = self._pings.pop((fd, number), None)
        if pending is not None and self._results[pending[0]] is None:
            index, sent = pending
            self._results[index] = Result(outcome, (time.monotonic() - sent) * 1000)
