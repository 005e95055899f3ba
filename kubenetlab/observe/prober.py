"""Concurrent probes from one process: each packet leaves from a socket in the source's namespace.

Pings of a source share one ICMP socket per family; every connect has its own socket. Errors that
routers and kernels send back are read from the sockets. Thus only silence takes the whole deadline;
a refusal or a missing route is known at once.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from kubenetlab.kernel.ping_sockets import Echo, echo_of, sequence_number
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.observe.targets.locations import Location

Outcome = Literal["answer", "refused", "unreachable", "silence"]

MAX_OPEN = 2000
"""Maximum number of concurrent connects."""
DNS_PORT = 53
UNEXPECTED_ANSWER_S = 0.2
"""Time to wait for answers when only probes without an expected answer are left, in seconds.

It is much longer than any answer takes inside one machine.
"""
_SENT_PER_DRAIN = 64
"""Number of pings sent before answers are read."""
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


def run(probes: Sequence[ProbeRequest], *, deadline_s: float = 1.0) -> list[Result]:
    """Return the result of each probe, in order.

    A probe without an answer `deadline_s` after the last one was sent is `silence`. When only
    probes without an expected answer are left, the wait ends after `UNEXPECTED_ANSWER_S`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ping_sockets = len({(probe.source.netns_path, ":" in probe.address) for probe in probes})
    capacity = max(1, min(MAX_OPEN, hard - ping_sockets - _OTHER_FILES))
    results: list[Result] = []
    connects = 0
    start = 0
    for end, probe in enumerate(probes):
        connects += probe.protocol != "ICMP"
        if connects == capacity:
            results += _Batch(probes[start : end + 1]).run(deadline_s)
            start, connects = end + 1, 0
    return results + _Batch(probes[start:]).run(deadline_s)


class _Batch:
    """Probes that are sent together."""

    def __init__(self, probes: Sequence[ProbeRequest]) -> None:
        self._probes = probes
        self._own_netns = open_namespace("net")
        self._results: list[Result | None] = [None] * len(probes)
        self._poll = select.epoll()
        self._pingers: dict[tuple[str, Echo], socket.socket] = {}
        """(path of the namespace, family) → ICMP socket."""
        self._pings: dict[tuple[int, int], tuple[int, float]] = {}
        """(file descriptor, sequence number) → (index of the probe, time of sending)."""
        self._connects: dict[int, tuple[int, socket.socket, float]] = {}
        """File descriptor → (index of the probe, socket, start time)."""

    def run(self, deadline_s: float) -> list[Result]:
        try:
            self._open()
            self._send_pings()
            deadline = time.monotonic() + deadline_s
            early_deadline = min(deadline, time.monotonic() + UNEXPECTED_ANSWER_S)
            while (self._pings or self._connects) and (
                remaining := (deadline if self._expects_answer() else early_deadline)
                - time.monotonic()
            ) > 0:
                self._drain(remaining)
        finally:
            self._poll.close()
            os.close(self._own_netns)
            for open_socket in (
                *self._pingers.values(),
                *(entry[1] for entry in self._connects.values()),
            ):
                open_socket.close()
        return [result or Result("silence") for result in self._results]

    def _expects_answer(self) -> bool:
        """Return True while a probe is pending for which an answer is expected."""
        under_way = (
            *(index for index, _ in self._pings.values()),
            *(index for index, _, _ in self._connects.values()),
        )
        return any(self._probes[index].expects_answer for index in under_way)

    def _open(self) -> None:
        """Open the ICMP sockets of each source and begin its connects.

        Each namespace is entered once.
        """
        by_source: dict[str, list[int]] = {}
        for index, probe in enumerate(self._probes):
            by_source.setdefault(probe.source.netns_path, []).append(index)
        for netns_path, indexes in by_source.items():
            with inside_network(os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC), self._own_netns):
                self._open_here(netns_path, indexes)

    def _open_here(self, netns_path: str, indexes: Sequence[int]) -> None:
        families = (
            echo_of(self._probes[index].address)
            for index in indexes
            if self._probes[index].protocol == "ICMP"
        )
        for echo in dict.fromkeys(families):
            pinger = socket.socket(
                echo.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, echo.protocol
            )
            echo.keep_errors(pinger)
            pinger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._pingers[netns_path, echo] = pinger
            self._poll.register(pinger, select.EPOLLIN | select.EPOLLERR)
        for index in indexes:
            if self._probes[index].protocol != "ICMP":
                self._connect(index)

    def _connect(self, index: int) -> None:
        probe = self._probes[index]
        is_stream = probe.protocol != "UDP"  # SCTP connects as TCP does
        echo = echo_of(probe.address)
        number = socket.IPPROTO_SCTP if probe.protocol == "SCTP" else 0
        try:
            connection = socket.socket(
                echo.family,
                (socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK,
                number,
            )
        except OSError as error:
            if error.errno != errno.EPROTONOSUPPORT:
                raise
            self._results[index] = Result("unreachable")  # this kernel has no SCTP
            return
        start = time.monotonic()
        # Without IP_RECVERR, UDP reports only unreachable ports, and TCP over IPv6 reports nothing
        # until it repeats its SYN: an error that arrives while connect() holds the socket, as it
        # does inside one machine, is only recorded (net/ipv6/tcp_ipv6.c tcp_v6_err()).
        echo.keep_errors(connection)
        if is_stream:
            # Close with a reset, which leaves no socket in TIME_WAIT.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        code = connection.connect_ex((probe.address, probe.port))
        if not is_stream and code == 0:
            try:
                connection.send(_payload(probe.port))
            except OSError as error:
                code = error.errno or 0
        if not is_stream and code == errno.EPERM:
            # A rule in the source's namespace dropped the packet. If it sent a rejection, the
            # socket receives it later.
            code = 0
        if code not in (0, errno.EINPROGRESS) or (is_stream and code == 0):
            self._results[index] = Result(outcome_of(code))
            connection.close()
            return
        self._poll.register(connection, select.EPOLLOUT if is_stream else select.EPOLLIN)
        self._connects[connection.fileno()] = (index, connection, start)

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
            self._pings[fd, number] = (index, time.monotonic())
            try:
                # Clear the pending error of an earlier ping, which sendto() would raise.
                pinger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                pinger.sendto(echo.request(number), (probe.address, 0))
            except OSError as error:
                self._finish(fd, number, outcome_of(error.errno or 0))
            if sent % _SENT_PER_DRAIN == 0:
                self._drain(0)

    def _drain(self, wait_s: float) -> None:
        pingers = {pinger.fileno(): (pinger, echo) for (_, echo), pinger in self._pingers.items()}
        for fd, events in self._poll.poll(wait_s):
            if fd in pingers:
                self._receive(*pingers[fd], has_errors=bool(events & select.EPOLLERR))
            else:
                index, connection, start = self._connects.pop(fd)
                code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code and events & select.EPOLLERR:
                    code = next(
                        (
                            error
                            for error, _ in queued_errors(
                                connection, echo_of(self._probes[index].address)
                            )
                        ),
                        0,
                    )
                self._results[index] = Result(outcome_of(code), (time.monotonic() - start) * 1000)
                connection.close()

    def _receive(self, pinger: socket.socket, echo: Echo, *, has_errors: bool) -> None:
        if has_errors:
            for code, packet in queued_errors(pinger, echo):
                if len(packet) >= _ECHO_BYTES:
                    self._finish(pinger.fileno(), sequence_number(packet), outcome_of(code))
        while True:
            try:
                data = pinger.recv(64)
            except OSError:
                return
            if (number := echo.replied(data)) is not None:
                self._finish(pinger.fileno(), number, "answer")

    def _finish(self, fd: int, number: int, outcome: Outcome) -> None:
        pending = self._pings.pop((fd, number), None)
        if pending is not None:
            index, sent = pending
            self._results[index] = Result(outcome, (time.monotonic() - sent) * 1000)


def _payload(port: int) -> bytes:
    """Return a datagram that the server at this port answers.

    It is a DNS query for port 53, else a command of the built-in programs.
    """
    return dns_query() if port == DNS_PORT else b"hostname"


def dns_query() -> bytes:
    """Return a DNS query that every cluster's name server answers: the version of its schema."""
    return (
        struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0)
        + b"\x0bdns-version\x07cluster\x05local\0"
        + struct.pack(">HH", 16, 1)
    )


def outcome_of(code: int) -> Outcome:
    """Return the meaning of an error number for a probe; 0 is no error."""
    if code == 0:
        return "answer"
    return (
        "refused"
        if code == errno.ECONNREFUSED
        else "silence"
        if code == errno.ETIMEDOUT
        else "unreachable"
    )


def queued_errors(connection: socket.socket, echo: Echo) -> Iterable[tuple[int, bytes]]:
    """Return (errno, packet that caused it) of each error in the socket's queue."""
    errors: list[tuple[int, bytes]] = []
    while True:
        try:
            data, ancillary, _, _ = connection.recvmsg(64, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return errors
        errors += [
            (struct.unpack_from("=I", value)[0], data)
            for _, kind, value in ancillary
            if kind == echo.receive_errors
        ]
