"""Netlink sockets of the protocols that objects need: batches of requests, and dumps.

A socket belongs to the namespace in which it was opened and keeps it alive, so it is closed as soon
as its work is done.

Source: net/netlink/af_netlink.c (6.12); RFC 3549; netlink(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from msgspec import Struct

from kubenetlab.hoststate.netlink import generic
from kubenetlab.hoststate.netlink.protocols import ROUTE, NetlinkProtocol
from kubenetlab.hoststate.netlink.wire import (
    HEADER,
    NLM_F_ACK,
    NLMSG_ERROR,
    UniformRequests,
    WireError,
    as_string,
    attributes,
    messages,
)
from kubenetlab.kernel.advice import describe_error
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.netlink.sockets import RECEIVE_BYTES

MAX_BATCH_BYTES = 128 * 1024
"""Maximum size of a datagram; the kernel accepts about 200 kB per sendmsg()."""

_DESIRED_BUFFER_BYTES = 1024 * 1024
"""Size of the receive buffer, as far as net.core.rmem_max allows it."""
_REPLY_BYTES = 1024
"""Maximum memory of a refusal in the receive buffer: the kernel counts about 800 bytes."""

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_NLMSGERR_ATTR_MSG = 1
_ERROR_BYTES = 4
_NUMBER = struct.Struct("=I")
_SEQUENCE_OFFSET = 8
"""Offset of the sequence number in a message header."""


class NetlinkRefusal(Struct, frozen=True):
    """One request of a batch that the kernel refused."""

    request: int
    """Index of the request in the batch."""
    errno: int
    text: str
    """Extended acknowledgement of the kernel; often empty."""

    def __str__(self) -> str:
        return describe_error(self.errno, self.text)


class NetlinkSocket:
    """Socket of one protocol; also a context manager that closes it."""

    def __init__(self, protocol: NetlinkProtocol) -> None:
        """Open a socket in the current namespace.

        Raises OSError if the kernel lacks the protocol, or a family of generic netlink.
        """
        self._socket = sockets.open_socket(protocol.number)
        self._family = 0
        """Type of all messages of a generic netlink family; 0 for other protocols."""
        if protocol.family:
            try:
                self._family = self._find_family(protocol.family)
            except OSError:
                self._socket.close()
                raise
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_BATCH_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DESIRED_BUFFER_BYTES)
        self._max_replies = (
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _REPLY_BYTES
        )
        """Number of refusals that fit into the receive buffer: the kernel drops the others."""

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
        """Send all requests in as few datagrams as possible; return those that were refused.

        A refusal does not stop the requests after it. A request may consist of several consecutive
        messages. The kernel acknowledges only the last message of a datagram, but reports the
        errors of all.
        """
        refusals: dict[int, NetlinkRefusal] = {}
        owners: list[int] = []
        datagram, replies, last = bytearray(), 0, 0
        for index, request in enumerate(requests):
            for part in _numbered(request, len(owners) + 1, self._max_replies, self._family):
                if datagram and (
                    len(datagram) + len(part.data) > MAX_BATCH_BYTES
                    or replies + part.messages > self._max_replies
                ):
                    self._exchange(datagram, last, owners, refusals)
                    datagram, replies = bytearray(), 0
                last = len(datagram) + len(part.data) - part.last_size
                datagram += part.data
                replies += part.messages
                owners += [index] * part.numbers
        if datagram:
            self._exchange(datagram, last, owners, refusals)
        return list(refusals.values())

    def dump(self, request: bytes) -> list[memoryview]:
        """Return the body of each message of a dump."""
        if self._family:
            size, _, flags, sequence, port = HEADER.unpack_from(request)
            header = HEADER.pack(size, self._family, flags, sequence, port)
            request = header + request[HEADER.size :]
        try:
            return sockets.request(self._socket, request)
        except OSError as error:
            raise OSError(error.errno, f"netlink dump: {error.strerror}") from None

    def _find_family(self, name: str) -> int:
        """Return the number of a generic netlink family.

        Raises FileNotFoundError if the kernel lacks it.
        """
        try:
            (reply,) = sockets.request(self._socket, generic.family_request(name, NLM_F_ACK))
        except FileNotFoundError as error:
            text = f"this kernel has no generic netlink family {name}"
            raise FileNotFoundError(error.errno, text) from None
        return generic.family_number(reply)

    def _exchange(
        self,
        datagram: bytearray,
        last: int,
        owners: Sequence[int],
        refusals: dict[int, NetlinkRefusal],
    ) -> None:
        """Send a datagram, and add the first refusal of each request.

        last: offset of its last message; owners: index of the request by sequence number - 1.
        """
        _request_ack(datagram, last)
        self._socket.send(datagram)
        while True:
            for type_, flags, sequence, body in messages(self._socket.recv(RECEIVE_BYTES)):
                if type_ != NLMSG_ERROR:
                    raise WireError(f"unexpected message of type {type_} in reply to a batch")
                number, owner = sockets.error_number(body), owners[sequence - 1]
                if number:
                    refusals.setdefault(
                        owner, NetlinkRefusal(owner, number, _explanation(flags, body))
                    )
                if sequence == len(owners):
                    return


class RouteSocket(NetlinkSocket):
    """NETLINK_ROUTE socket."""

    def __init__(self) -> None:
        super().__init__(ROUTE)


class _Part(NamedTuple):
    """Numbered messages."""

    data: bytes | bytearray
    messages: int
    numbers: int
    """Number of sequence numbers used."""
    last_size: int
    """Length of the last message in bytes."""


def _numbered(request: bytes, first: int, max_messages: int, type_of_all: int) -> Iterator[_Part]:
    """Yield the messages of a request with sequence numbers that start at `first`.

    Uniform requests need two numbers only: one for all messages but the last, and one for the last.
    They are split into parts of at most `max_messages`.

    type_of_all: message type to set, which a generic netlink family has at run time; 0: none.
    """
    if isinstance(request, UniformRequests) and len(request) > request.size:
        size = request.size
        step = min(max_messages, MAX_BATCH_BYTES // size) * size
        for start in range(0, len(request), step):
            data = bytearray(request[start : start + step])
            for position, byte in enumerate(_NUMBER.pack(first), _SEQUENCE_OFFSET):
                data[position::size] = bytes([byte]) * (len(data) // size)
            _NUMBER.pack_into(data, len(data) - size + _SEQUENCE_OFFSET, first + 1)
            yield _Part(data, len(data) // size, 2, size)
            first += 2
        return
    at = 0
    while at < len(request):
        size, type_, flags, _, _ = HEADER.unpack_from(request, at)
        yield _Part(
            HEADER.pack(size, type_of_all or type_, flags, first, 0)
            + request[at + HEADER.size : at + size],
            1,
            1,
            size,
        )
        at += size
        first += 1


def _request_ack(datagram: bytearray, last: int) -> None:
    """Set NLM_F_ACK in the message at offset `last`."""
    size, type_, flags, sequence, port = HEADER.unpack_from(datagram, last)
    HEADER.pack_into(datagram, last, size, type_, flags | NLM_F_ACK, sequence, port)


def _explanation(flags: int, body: memoryview) -> str:
    """Return the text of an extended acknowledgement; empty if it has none.

    body: i32 error | header of the request (16 bytes) | attributes.
    """
    has_attributes = flags & 0x200  # NLM_F_ACK_TLVS
    if not has_attributes:
        return ""
    values = attributes(body[_ERROR_BYTES + HEADER.size :])
    return as_string(values[_NLMSGERR_ATTR_MSG]) if _NLMSGERR_ATTR_MSG in values else ""
