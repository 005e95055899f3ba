"""Many probes at once from one process: every packet leaves from a socket made inside the source's namespace.

Pings share one ICMP socket per source; connects have a socket each. Errors that routers and kernels send back are read from the
sockets, so that what is refused or has no way is known at once and only silence costs the deadline.
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
from kubenetlab.observe.locations import Location

Outcome = Literal["answer", "refused", "unreachable", "silence"]

MAX_OPEN = 2000
"""How many connects may be under way at once."""
DNS_PORT = 53
HOPELESS_S = 0.2
"""Much longer than any answer takes inside one machine."""
_SENT_PER_DRAIN = 64
_ECHO_BYTES = 8
_OTHER_FILES = 64
"""What this process may have open beside its probes."""


class ProbeRequest(Struct, frozen=True):
    """One question."""

    source: Location
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"]
    address: str
    port: int = 0
    is_hopeful: bool = True
    """False when no answer is expected."""


class Result(Struct, frozen=True):
    """What came of one probe."""

    outcome: Outcome
    ms: float = 0.0
    """From sending to the answer."""


def run(probes: Sequence[ProbeRequest], *, deadline_s: float = 1.0) -> list[Result]:
    """The result of each probe, in order. What has not answered `deadline_s` after the last was sent is silence.

    Where only probes are left of which no answer is hoped for, silence is not waited out for longer than `HOPELESS_S`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pingers = len({(probe.source.netns, ":" in probe.address) for probe in probes})
    room = max(1, min(MAX_OPEN, hard - pingers - _OTHER_FILES))
    results: list[Result] = []
    connects = 0
    start = 0
    for end, probe in enumerate(probes):
        connects += probe.protocol != "ICMP"
        if connects == room:
            results += _Batch(probes[start : end + 1]).run(deadline_s)
            start, connects = end + 1, 0
    return results + _Batch(probes[start:]).run(deadline_s)


class _Batch:
    """Probes that are under way together."""

    def __init__(self, probes: Sequence[ProbeRequest]) -> None:
        self._probes = probes
        self._home = open_namespace("net")
        self._results: list[Result | None] = [None] * len(probes)
        self._poll = select.epoll()
        self._pingers: dict[tuple[str, Echo], socket.socket] = {}
        """(namespace, family) → its ICMP socket."""
        self._pings: dict[tuple[int, int], tuple[int, float]] = {}
        """(descriptor of the socket, sequence number) → (probe, when it was sent)"""
        self._connects: dict[int, tuple[int, socket.socket, float]] = {}
        """Descriptor → (probe, socket, when it was begun)"""

    def run(self, deadline_s: float) -> list[Result]:
        try:
            self._open()
            self._send_pings()
            deadline = time.monotonic() + deadline_s
            hopeless = min(deadline, time.monotonic() + HOPELESS_S)
            while (self._pings or self._connects) and (
                left := (deadline if self._has_hope() else hopeless) - time.monotonic()
            ) > 0:
                self._drain(left)
        finally:
            self._poll.close()
            os.close(self._home)
            for opened in (
                *self._pingers.values(),
                *(waiting[1] for waiting in self._connects.values()),
            ):
                opened.close()
        return [result or Result("silence") for result in self._results]

    def _has_hope(self) -> bool:
        under_way = (
            *(index for index, _ in self._pings.values()),
            *(index for index, _, _ in self._connects.values()),
        )
        return any(self._probes[index].is_hopeful for index in under_way)

    def _open(self) -> None:
        """One visit to each source: its ICMP socket, and all its connects begun."""
        by_source: dict[str, list[int]] = {}
        for index, probe in enumerate(self._probes):
            by_source.setdefault(probe.source.netns, []).append(index)
        for netns, indexes in by_source.items():
            with inside_network(os.open(netns, os.O_RDONLY | os.O_CLOEXEC), self._home):
                self._open_here(netns, indexes)

    def _open_here(self, netns: str, indexes: Sequence[int]) -> None:
        pinged = (
            echo_of(self._probes[index].address)
            for index in indexes
            if self._probes[index].protocol == "ICMP"
        )
        for echo in dict.fromkeys(pinged):
            pinger = socket.socket(
                echo.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, echo.protocol
            )
            echo.keep_errors(pinger)
            pinger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._pingers[netns, echo] = pinger
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
            opened = socket.socket(
                echo.family,
                (socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK,
                number,
            )
        except OSError as error:
            if error.errno != errno.EPROTONOSUPPORT:
                raise
            self._results[index] = Result("unreachable")  # this kernel has no SCTP
            return
        begun = time.monotonic()
        # Else UDP would tell only of unreachable ports; and TCP over IPv6 of nothing before it repeats its SYN: word that comes while
        # connect() still holds the socket, as inside one machine it does, is merely noted there (net/ipv6/tcp_ipv6.c tcp_v6_err()).
        echo.keep_errors(opened)
        if is_stream:
            opened.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # no TIME_WAIT left behind
        code = opened.connect_ex((probe.address, probe.port))
        if not is_stream and code == 0:
            try:
                opened.send(_question(probe.port))
            except OSError as error:
                code = error.errno or 0
        if not is_stream and code == errno.EPERM:
            code = 0  # a rule of the source's own dropped it, perhaps with a refusal, which the socket will tell
        if code not in (0, errno.EINPROGRESS) or (is_stream and code == 0):
            self._results[index] = Result(outcome_of(code))
            opened.close()
            return
        self._poll.register(opened, select.EPOLLOUT if is_stream else select.EPOLLIN)
        self._connects[opened.fileno()] = (index, opened, begun)

    def _send_pings(self) -> None:
        """Destination by destination, so that no source sends a burst; answers are taken in between."""
        indexes = [index for index, probe in enumerate(self._probes) if probe.protocol == "ICMP"]
        numbers: dict[int, int] = {}
        for sent, index in enumerate(
            sorted(indexes, key=lambda index: self._probes[index].address)
        ):
            probe = self._probes[index]
            echo = echo_of(probe.address)
            pinger = self._pingers[probe.source.netns, echo]
            fd = pinger.fileno()
            numbers[fd] = number = numbers.get(fd, 0) + 1
            self._pings[fd, number] = (index, time.monotonic())
            try:
                pinger.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ERROR
                )  # word about a former one would be taken for this one's
                pinger.sendto(echo.request(number), (probe.address, 0))
            except OSError as error:
                self._done(fd, number, outcome_of(error.errno or 0))
            if sent % _SENT_PER_DRAIN == 0:
                self._drain(0)

    def _drain(self, wait_s: float) -> None:
        pingers = {pinger.fileno(): (pinger, echo) for (_, echo), pinger in self._pingers.items()}
        for fd, events in self._poll.poll(wait_s):
            if fd in pingers:
                self._hear(*pingers[fd], has_errors=bool(events & select.EPOLLERR))
            else:
                index, opened, begun = self._connects.pop(fd)
                code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code and events & select.EPOLLERR:
                    code = next(
                        (
                            error
                            for error, _ in queued_errors(
                                opened, echo_of(self._probes[index].address)
                            )
                        ),
                        0,
                    )
                self._results[index] = Result(outcome_of(code), (time.monotonic() - begun) * 1000)
                opened.close()

    def _hear(self, pinger: socket.socket, echo: Echo, *, has_errors: bool) -> None:
        if has_errors:
            for code, packet in queued_errors(pinger, echo):
                if len(packet) >= _ECHO_BYTES:
                    self._done(pinger.fileno(), sequence_number(packet), outcome_of(code))
        while True:
            try:
                data = pinger.recv(64)
            except OSError:
                return
            if (number := echo.replied(data)) is not None:
                self._done(pinger.fileno(), number, "answer")

    def _done(self, fd: int, number: int, outcome: Outcome) -> None:
        found = self._pings.pop((fd, number), None)
        if found is not None:
            index, sent = found
            self._results[index] = Result(outcome, (time.monotonic() - sent) * 1000)


def _question(port: int) -> bytes:
    """A datagram that the server at this port answers: a DNS question at 53, else what the lab's own programs understand."""
    return dns_question() if port == DNS_PORT else b"hostname"


def dns_question() -> bytes:
    """A DNS question that every cluster's name server answers: which schema it has."""
    return (
        struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0)
        + b"\x0bdns-version\x07cluster\x05local\0"
        + struct.pack(">HH", 16, 1)
    )


def outcome_of(code: int) -> Outcome:
    """What an error number means for a probe; 0 is no error."""
    if code == 0:
        return "answer"
    return (
        "refused"
        if code == errno.ECONNREFUSED
        else "silence"
        if code == errno.ETIMEDOUT
        else "unreachable"
    )


def queued_errors(opened: socket.socket, echo: Echo) -> Iterable[tuple[int, bytes]]:
    """(errno, the packet it is about) of each error that came back."""
    found: list[tuple[int, bytes]] = []
    while True:
        try:
            data, ancillary, _, _ = opened.recvmsg(64, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return found
        found += [
            (struct.unpack_from("=I", value)[0], data)
            for _, kind, value in ancillary
            if kind == echo.receive_errors
        ]
