"""RPC client for another process of the lab, which reconnects when the connection breaks."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Generic

import msgspec

from kubenetlab.lab.log import log
from kubenetlab.lab.transport.channel import Channel, EventT, RpcConnection
from kubenetlab.lab.transport.protocol import BatchRequest, ReplyT, Request, RequestFailed

RECONNECT_S = 0.02
"""Pause between two attempts to connect, in seconds."""


class RpcClient(Generic[EventT]):
    """Client of one process: sends requests and receives events.

    Init owns the process's listening socket, so connections succeed even while the process is
    being restarted; it replies as soon as it runs.
    """

    def __init__(
        self,
        name: str,
        path: str,
        events: msgspec.msgpack.Decoder[EventT],
        on_event: Callable[[EventT], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Start to connect.

        name: of the process, for messages.
        on_event: called with each event that the process sends.
        on_connect: called after every reconnection: the new process has no state of the former one.
        """
        self.name = name
        self._path = path
        self._event_decoder = events
        self._on_event = on_event
        self._on_reconnect = on_reconnect
        self._connection: RpcConnection[EventT] | None = None
        self._connected = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(exit_on_failure)

    async def call(self, request: Request[ReplyT]) -> ReplyT | RequestFailed:
        """Send a request and return the reply; `RequestFailed` if the process dies before it."""
        await self._connected.wait()
        connection = self._connection
        if connection is None:
            return RequestFailed(f"the {self.name} is being restarted")
        try:
            return await connection.call(request)
        except ConnectionError:
            return RequestFailed(f"the {self.name} died")

    async def call_each(
        self,
        request: BatchRequest[object, ReplyT],
        futures: Sequence[asyncio.Future[ReplyT | RequestFailed]],
    ) -> None:
        """Send a request with several parts, whose futures get a reply each.

        While the process is being restarted, the reply is `RequestFailed`. If the process dies
        before it replies, the future gets a ConnectionError.
        """
        await self._connected.wait()
        if self._connection is None:
            for future in futures:
                if not future.done():
                    future.set_result(RequestFailed(f"the {self.name} is being restarted"))
        else:
            self._connection.call_each(request, futures)

    async def _run(self) -> None:
        is_first = True
        while True:
            try:
                channel = await Channel.connect(self._path)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            connection = RpcConnection(channel, self.name, self._event_decoder)
            self._connection = connection
            self._connected.set()
            if not is_first:
                log(f"reconnected to the {self.name}")
                self._on_reconnect()
            is_first = False
            try:
                async for event in connection.events():
                    self._on_event(event)
            except ConnectionError:
                pass
            self._connected.clear()
            self._connection = None
            connection.close()
            log(f"the connection to the {self.name} was lost")


def exit_on_failure(task: asyncio.Task[object]) -> None:
    """End this process when a task ends that it cannot work without; init then restarts it.

    A callback for `Task.add_done_callback`. An exception of the task is logged.
    """
    if not task.cancelled():
        if (error := task.exception()) is not None:
            log("".join(traceback.format_exception(error)))
        os._exit(1)
