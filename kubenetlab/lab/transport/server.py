"""RPC server of a process of the lab. Its client is the agent, or a successor of that agent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic

from kubenetlab.lab.transport.accepting import accept
from kubenetlab.lab.transport.channel import Channel, EventT
from kubenetlab.lab.transport.frames import Frame
from kubenetlab.lab.transport.handlers import Handlers
from kubenetlab.lab.transport.protocol import Message


class RpcServer(Generic[EventT]):
    """Answers the requests of the connected client, and sends it events."""

    def __init__(
        self,
        listener: socket.socket,
        handlers: Handlers[[]],
        greeting: Callable[[], Iterable[EventT]],
    ) -> None:
        """Create a server, which serves while `run` runs.

        greeting: returns the events with which a new client begins.
        """
        self._listener = listener
        self._handlers = handlers
        self._greeting = greeting
        self._client: Channel | None = None
        self._pending: set[asyncio.Task[None]] = set()
        """Tasks that wait for a reply which takes long."""

    async def run(self) -> None:
        """Serve one client after another; never return."""
        while True:
            client = self._client = Channel(await accept(self._listener))
            try:
                for event in self._greeting():
                    client.send(event)
                async for frame in client.receive():
                    await self._serve(client, frame)
            finally:
                self._client = None
                client.close()

    def notify(self, event: EventT) -> None:
        """Send an event to the client, if there is one."""
        if self._client is not None:
            self._client.send(event)

    async def _serve(self, client: Channel, frame: Frame) -> None:
        replies = self._handlers.replies(frame.body)
        for number, reply in enumerate(replies, frame.number):
            if number > frame.number:
                await client.sent()  # the former reply, before the next part, which may take long
            if isinstance(reply, Message):
                client.send(reply, number)
            else:
                self._pending.add(task := asyncio.create_task(_reply_later(client, number, reply)))
                task.add_done_callback(self._pending.discard)


async def _reply_later(client: Channel, number: int, reply: Awaitable[Message]) -> None:
    client.send(await reply, number)
