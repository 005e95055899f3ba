"""Sockets of probes, and the meaning of the errors that they report."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from kubenetlab.kernel.ping_sockets import Echo, echo_of

Outcome = Literal["answer", "refused", "unreachable", "silence", "not testable"]
"""Result of a probe; `not testable` if this kernel does not have its protocol, SCTP."""
NO_SCTP: Final = "SCTP is not available; run sudo modprobe sctp, or see kubenetlab doctor"
"""Message for a probe that is not testable."""

DNS_PORT = 53
FIRST_PORT: Final = 32768
"""First source port of probes: that of the kernel's own range (ip_local_port_range)."""
PORTS: Final = 28232
"""Number of source ports."""
_PORTS_PER_S: Final = 150
"""Source ports by which the first one of a run advances with time.

For three minutes, a probe has another source port in each run with the same probes: the kernel may
remember a flow of UDP for that long, and a flow that was allowed once may stay allowed.
"""
_PORTS_PER_SOURCE: Final = 101
"""Distance of the first ports of two sources. Masquerading gives both the same address."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_KINDS: Final = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
"""Protocol → socket type and protocol number. SCTP connects as TCP does."""


def source_ports(number: int) -> Iterator[int]:
    """Yield the source ports for source `number` of a run that begins now, without an end."""
    # The clock goes on when a lab or this process is new, and while the machine sleeps.
    start = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _PORTS_PER_S)
    offset = start + number * _PORTS_PER_SOURCE
    while True:
        yield FIRST_PORT + offset % PORTS
        offset += 1


def open_socket(protocol: str, address: str, ports: Iterator[int]) -> socket.socket:
    """Open a socket for a probe, bound to the next free source port.

    Raises OSError, with EPROTONOSUPPORT if the kernel does not have the protocol.
    """
    kind, number = _KINDS[protocol]
    echo = echo_of(address)
    connection = socket.socket(
        echo.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, number
    )
    try:
        # Without IP_RECVERR, UDP reports only unreachable ports, and TCP over IPv6 reports nothing
        # until it repeats its SYN: an error that arrives while connect() holds the socket, as it
        # does inside one machine, is only recorded (net/ipv6/tcp_ipv6.c tcp_v6_err()).
        echo.keep_errors(connection)
        if protocol != "UDP":
            # Close with a reset, which leaves no socket in TIME_WAIT.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        _bind(connection, ports)
    except OSError:
        connection.close()
        raise
    return connection


def _bind(connection: socket.socket, ports: Iterator[int]) -> None:
    """Bind a socket to the next free port."""
    for _ in range(PORTS):
        try:
            connection.bind(("", next(ports)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, "every source port is in use")


def begin(connection: socket.socket, protocol: str, address: str, port: int) -> int:
    """Connect, and send the datagram of a UDP probe; return an error number or 0.

    0 and EINPROGRESS mean that the result is still open.
    """
    code = connection.connect_ex((address, port))
    if protocol != "UDP":
        return code
    if code == 0:
        try:
            connection.send(payload(port))
        except OSError as error:
            code = error.errno or 0
    # EPERM: a rule in the source's namespace dropped the packet. If it sent a rejection, the socket
    # receives it later.
    return 0 if code == errno.EPERM else code


def payload(port: int) -> bytes:
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
