"""A NETLINK_ROUTE socket of the namespace it was opened in: batches of requests, and dumps.

A socket keeps its namespace alive: it is closed as soon as its work is done.
Source: net/netlink/af_netlink.c (6.12); RFC 3549; netlink(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from msgspec import Struct

from kubenetlab.hoststate.wire import (
    HEADER,
    NLM_F_ACK,
    NLMSG_ERROR,
    UniformRequests,
    WireError,
    as_string,
    attributes,
    messages,
)
from kubenetlab.kernel.advice import said
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.netlink.sockets import RECEIVE_BYTES

MAX_BATCH_BYTES = 128 * 1024
"""One sendmsg takes about 200 kB at most."""

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_NLMSGERR_ATTR_MSG = 1
_ERROR_BYTES = 4
_NUMBER = struct.Struct("=I")
_SEQUENCE_OFFSET = 8
"""Where in a message's header its number is."""


class NetlinkRefusal(Struct, frozen=True):
    """The kernel's no to one request of a batch."""

    request: int
    """Which one, counted from 0."""
    errno: int
    text: str
    """The kernel's own explanation; often empty."""

    def __str__(self) -> str:
        return said(self.errno, self.text)


class RouteSocket:
    """Use as a context manager, or close it."""

    def __init__(self) -> None:
        self._socket = sockets.opened(sockets.NETLINK_ROUTE)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_BATCH_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def batch(self, requests: Sequence[bytes]) -> list[NetlinkRefusal]:
        """Sends all requests, in as few datagrams as fit; a refusal does not stop those behind it.

        A request may be several messages one behind the other. Only the last message of a datagram is acknowledged, errors are
        reported of all.
        """
        refusals: list[NetlinkRefusal] = []
        for start, part in _datagrams(requests):
            refusals += self._exchange(start, part)
        return refusals

    def dump(self, request: bytes) -> list[memoryview]:
        """The body of each message that a dump request brings."""
        try:
            return sockets.ask(self._socket, request)
        except OSError as error:
            raise OSError(error.errno, f"rtnetlink dump: {error.strerror}") from None

    def _exchange(self, start: int, requests: Sequence[bytes]) -> list[NetlinkRefusal]:
        datagram, owners = bytearray(), list[int]()
        last = 0
        for index, request in enumerate(requests):
            for part in _numbered(request, len(owners) + 1):
                last = len(datagram) + len(part.data) - part.last_size
                datagram += part.data
                owners += [start + index] * part.numbers
        if not owners:
            return []
        _ask_for_answer(datagram, last)
        self._socket.send(datagram)
        refusals: dict[int, NetlinkRefusal] = {}
        while True:
            for type_, flags, sequence, body in messages(self._socket.recv(RECEIVE_BYTES)):
                if type_ != NLMSG_ERROR:
                    raise WireError(f"message of type {type_} in answer to a batch")
                number, owner = sockets.refusal(body), owners[sequence - 1]
                if number:
                    refusals.setdefault(
                        owner, NetlinkRefusal(owner, number, _explanation(flags, body))
                    )
                if sequence == len(owners):
                    return list(refusals.values())


def _datagrams(requests: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """(index of the first request, requests) of each datagram."""
    start, size = 0, 0
    for index, request in enumerate(requests):
        if size and size + len(request) > MAX_BATCH_BYTES:
            yield start, requests[start:index]
            start, size = index, 0
        size += len(request)
    if start < len(requests):
        yield start, requests[start:]


class _Part(NamedTuple):
    """Messages with their sequence numbers: how many those are, and how long the last message is."""

    data: bytes | bytearray
    numbers: int
    last_size: int


def _numbered(request: bytes, first: int) -> Iterator[_Part]:
    """The messages of a request, numbered from `first` on. Many of one length have one number, but for the last."""
    if isinstance(request, UniformRequests) and len(request) > request.size:
        data, size = bytearray(request), request.size
        for position, byte in enumerate(_NUMBER.pack(first), _SEQUENCE_OFFSET):
            data[position::size] = bytes([byte]) * (len(data) // size)
        _NUMBER.pack_into(data, len(data) - size + _SEQUENCE_OFFSET, first + 1)
        yield _Part(data, 2, size)
        return
    at = 0
    while at < len(request):
        size, type_, flags, _, _ = HEADER.unpack_from(request, at)
        yield _Part(
            HEADER.pack(size, type_, flags, first, 0) + request[at + HEADER.size : at + size],
            1,
            size,
        )
        at += size
        first += 1


def _ask_for_answer(datagram: bytearray, last: int) -> None:
    """Has the kernel acknowledge the message that begins at `last`."""
    size, type_, flags, sequence, port = HEADER.unpack_from(datagram, last)
    HEADER.pack_into(datagram, last, size, type_, flags | NLM_F_ACK, sequence, port)


def _explanation(flags: int, body: memoryview) -> str:
    """The text of an extended acknowledgement. body: i32 error | the request's header (16 bytes) | attributes."""
    has_attributes = flags & 0x200  # NLM_F_ACK_TLVS
    if not has_attributes:
        return ""
    found = attributes(body[_ERROR_BYTES + HEADER.size :])
    return as_string(found[_NLMSGERR_ATTR_MSG]) if _NLMSGERR_ATTR_MSG in found else ""
