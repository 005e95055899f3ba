"""Connections between a lab's own processes: messages, and requests with their replies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from kubenetlab.lab.log import log
from kubenetlab.lab.transport.frames import EVENT, Frame, FrameDecoder, encode
from kubenetlab.lab.transport.protocol import (
    AnyRequest,
    BatchRequest,
    Message,
    MessageError,
    ReplyT,
    Request,
    RequestFailed,
    decode,
    reply_decoder,
)

EventT = TypeVar("EventT", bound=Message)

RECEIVE_BYTES = 256 * 1024
_DIED = "the process at the other end died"


class Channel:
    """One end of a message connection, used in an event loop."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._frames = FrameDecoder()
        self._outbox: list[bytes] = []
        self._sending: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: str) -> Channel:
        """Connect to a Unix socket. Raises OSError if no process listens on it."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(connection, path)
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def send(self, message: Message, number: int = EVENT) -> None:
        """Send a message, together with all others of the same loop iteration.

        The message is lost if the peer is dead; `receive` then ends.
        """
        self._outbox.append(encode(message, number))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def sent(self) -> None:
        """Wait until all messages have been sent."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        try:
            while self._outbox:
                data, self._outbox = b"".join(self._outbox), []
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            self._outbox.clear()
        finally:
            self._sending = None

    async def receive(self) -> AsyncIterator[Frame]:
        """Yield every message, not decoded, until the peer closes the connection or dies."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, RECEIVE_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            for frame in self._frames.feed(data):
                yield frame

    def close(self) -> None:
        """Close the connection; messages that have not been sent are lost."""
        if self._sending is not None:
            self._sending.cancel()
        self._socket.close()


class RpcConnection(Generic[EventT]):
    """Client's end of a connection: replies are matched to requests by number."""

    def __init__(
        self, channel: Channel, peer: str, events: msgspec.msgpack.Decoder[EventT]
    ) -> None:
        """Use a connected channel.

        peer: name of the server, for messages.
        """
        self._channel = channel
        self._peer = peer
        self._event_decoder = events
        self._waiting: dict[int, tuple[type[AnyRequest], asyncio.Future[Any]]] = {}
        """Number → type of the request, and the future of its reply."""
        self._last_number = 0
        self._is_closed = False

    async def call(self, request: Request[ReplyT]) -> ReplyT | RequestFailed:
        """Send a request and return the reply.

        Raises ConnectionError if the peer dies before it replies.
        """
        if self._is_closed:
            raise ConnectionResetError(_DIED)
        future: asyncio.Future[ReplyT | RequestFailed] = asyncio.get_running_loop().create_future()
        number = self._register(request, (future,))
        try:
            self._channel.send(request, number)
            return await future
        finally:
            self._waiting.pop(number, None)

    def call_each(
        self,
        request: BatchRequest[object, ReplyT],
        futures: Sequence[asyncio.Future[ReplyT | RequestFailed]],
    ) -> None:
        """Send a request with several parts.

        futures: of the parts in their order; each gets the reply to its part, or a ConnectionError.
        """
        number = self._register(request, futures)
        if self._is_closed:
            self._fail()
        else:
            self._channel.send(request, number)

    def _register(self, request: AnyRequest, futures: Sequence[asyncio.Future[Any]]) -> int:
        """Return the number of a request, whose replies are set on the futures."""
        first = self._last_number + 1
        for future in futures:
            self._last_number += 1
            self._waiting[self._last_number] = type(request), future
        return first

    async def events(self) -> AsyncIterator[EventT]:
        """Yield the peer's events until it closes the connection or dies; then fail all calls.

        Replies arrive only while this iterator runs. An event that cannot be decoded is logged.
        """
        try:
            async for frame in self._channel.receive():
                if frame.number != EVENT:
                    self._receive_reply(frame)
                    continue
                try:
                    event: EventT = decode(frame.body, self._event_decoder)
                except MessageError as error:
                    log(f"an event of the {self._peer} cannot be decoded: {error}")
                    continue
                yield event
        finally:
            self._is_closed = True
            self._fail()

    def _receive_reply(self, frame: Frame) -> None:
        request, future = self._waiting.pop(frame.number, (None, None))
        if request is None or future is None or future.done():
            return  # the call was cancelled
        try:
            reply = decode(frame.body, reply_decoder(request))
        except MessageError as error:
            reply = RequestFailed(
                f"the reply of the {self._peer} to {request.__name__} cannot be decoded: {error}"
            )
            log(reply.error)
        future.set_result(reply)

    def _fail(self) -> None:
        """Fail all calls that wait for a reply."""
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError(_DIED))
        self._waiting.clear()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
