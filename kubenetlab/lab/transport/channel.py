"""Connections between the lab's own processes, in an event loop: messages, and requests with their answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kubenetlab.lab.transport.frames import Frames, Message, encode

RECEIVE_BYTES = 256 * 1024
_DIED = "the process at the other end died"


class Channel:
    """One end of a connection between two of the lab's processes, in an event loop."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._frames = Frames()
        self._outbox: list[bytes] = []
        self._sending: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: str) -> Channel:
        """Raises OSError when nobody listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(connection, path)
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def send(self, message: Mapping[str, Any]) -> None:
        """Says something, together with all that is said in the same turn of the event loop. It is lost when the other side is dead:
        who reads here sees that."""
        self._outbox.append(encode(message))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def sent(self) -> None:
        """Returns when nothing is left to be sent."""
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
        """Every message until the other side closes or dies."""
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
        if self._sending is not None:
            self._sending.cancel()
        self._socket.close()


class Caller:
    """Requests over a channel and their answers, told apart by number; everything else that comes in is an event."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._next = 0
        self._is_over = False

    async def call(self, **request: Any) -> Message:
        """The answer to a request. Raises ConnectionError when the other side dies before it answers."""
        if self._is_over:
            raise ConnectionResetError(_DIED)
        number = self._expect(future := asyncio.get_running_loop().create_future())
        try:
            self._channel.send({"id": number, **request})
            answer: Message = await future
            return answer
        finally:
            self._waiting.pop(number, None)

    def call_each(
        self, request: Mapping[str, Any], each: Mapping[asyncio.Future[Message], Mapping[str, Any]]
    ) -> None:
        """One request about several things, `each` of them answered by itself: a future gets the answer, or ConnectionError."""
        numbered = [{"id": self._expect(future), **one} for future, one in each.items()]
        if self._is_over:
            self._fail()
        else:
            self._channel.send({**request, "each": numbered})

    def _expect(self, future: asyncio.Future[Message]) -> int:
        """A number for an answer that somebody waits for."""
        self._next += 1
        self._waiting[self._next] = future
        return self._next

    async def events(self) -> AsyncIterator[Message]:
        """What the other side says unasked, until it closes or dies; then all calls fail."""
        try:
            async for message in self._channel.receive():
                if "answers" not in message:
                    yield message
                elif (
                    future := self._waiting.pop(message["answers"], None)
                ) is not None and not future.done():  # else nobody waits for it any more
                    future.set_result(message)
        finally:
            self._is_over = True
            self._fail()

    def _fail(self) -> None:
        """Nobody answers any more."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError(_DIED))
        self._waiting.clear()

    def close(self) -> None:
        self._channel.close()
