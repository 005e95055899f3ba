"""Connections between a lab's own processes: messages, and requests with their replies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kubenetlab.lab.transport.json_frames import FrameDecoder, Message, encode

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

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, together with all others of the same loop iteration.

        The message is lost if the peer is dead; `receive` then ends.
        """
        self._outbox.append(encode(message))
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

    async def receive(self) -> AsyncIterator[Message]:
        """Yield every message until the peer closes the connection or dies."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, RECEIVE_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            for message in self._frames.feed(data):
                yield message

    def close(self) -> None:
        """Close the connection; messages that have not been sent are lost."""
        if self._sending is not None:
            self._sending.cancel()
        self._socket.close()


class RpcConnection:
    """Requests over a channel: replies are matched by number, all other messages are events."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._next = 0
        self._is_closed = False

    async def call(self, **request: Any) -> Message:
        """Send a request and return the reply.

        Raises ConnectionError if the peer dies before it replies.
        """
        if self._is_closed:
            raise ConnectionResetError(_DIED)
        number = self._register(future := asyncio.get_running_loop().create_future())
        try:
            self._channel.send({"id": number, **request})
            reply: Message = await future
            return reply
        finally:
            self._waiting.pop(number, None)

    def call_each(
        self, request: Mapping[str, Any], each: Mapping[asyncio.Future[Message], Mapping[str, Any]]
    ) -> None:
        """Send one request with several parts, each of which gets its own reply.

        each: the parts, by the future that gets the reply or a ConnectionError.
        """
        numbered = [{"id": self._register(future), **part} for future, part in each.items()]
        if self._is_closed:
            self._fail()
        else:
            self._channel.send({**request, "each": numbered})

    def _register(self, future: asyncio.Future[Message]) -> int:
        """Return a new request number, whose reply is set on `future`."""
        self._next += 1
        self._waiting[self._next] = future
        return self._next

    async def events(self) -> AsyncIterator[Message]:
        """Yield the peer's events until it closes the connection or dies; then fail all calls.

        Replies arrive only while this iterator runs.
        """
        try:
            async for message in self._channel.receive():
                if "answers" not in message:
                    yield message
                    continue
                future = self._waiting.pop(message["answers"], None)
                if future is not None and not future.done():  # else the call was cancelled
                    future.set_result(message)
        finally:
            self._is_closed = True
            self._fail()

    def _fail(self) -> None:
        """Fail all calls that wait for a reply."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError(_DIED))
        self._waiting.clear()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
