"""RPC client for another process of the lab, which reconnects when the connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from kubenetlab.lab.log import log
from kubenetlab.lab.transport.json_channel import Channel, RpcConnection
from kubenetlab.lab.transport.json_frames import Message
from kubenetlab.lab.transport.rpc import exit_on_failure

RECONNECT_S = 0.02
"""Pause between two attempts to connect, in seconds."""

OnEvent = Callable[[Message], None]
"""Called with each event that the other process sends."""


class RpcClient:
    """Client of one process: sends requests and receives events.

    Init owns the process's listening socket, so connections succeed even while the process is
    being restarted; it replies as soon as it runs.
    """

    def __init__(
        self, name: str, path: str, on_event: OnEvent, on_connect: Callable[[], None]
    ) -> None:
        """Start to connect.

        name: of the process, for messages.
        on_connect: called after every reconnection: the new process has no state of the former one.
        """
        self.name = name
        self._path = path
        self._on_event = on_event
        self._on_connect = on_connect
        self._caller: RpcConnection | None = None
        self._connected = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(exit_on_failure)

    async def call(self, **request: Any) -> Message:
        """Send a request and return the reply; `{"error": …}` if the process dies before it."""
        await self._connected.wait()
        caller = self._caller
        if caller is None:
            return {"error": f"the {self.name} is being restarted"}
        try:
            return await caller.call(**request)
        except ConnectionError:
            return {"error": f"the {self.name} died"}

    async def call_each(
        self, request: Mapping[str, Any], each: Mapping[asyncio.Future[Message], Mapping[str, Any]]
    ) -> None:
        """Send one request with several parts, whose futures get a reply each.

        While the process is being restarted, the reply is `{"error": …}`. If the process dies
        before it replies, the future gets a ConnectionError.
        """
        await self._connected.wait()
        if self._caller is None:
            for future in each:
                if not future.done():
                    future.set_result({"error": f"the {self.name} is being restarted"})
        else:
            self._caller.call_each(request, each)

    async def _run(self) -> None:
        is_first = True
        while True:
            try:
                caller = self._caller = RpcConnection(await Channel.connect(self._path))
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            self._connected.set()
            if not is_first:
                log(f"reconnected to the {self.name}")
                self._on_connect()
            is_first = False
            try:
                async for event in caller.events():
                    self._on_event(event)
            except ConnectionError:
                pass
            self._connected.clear()
            self._caller = None
            caller.close()
            log(f"the connection to the {self.name} was lost")
