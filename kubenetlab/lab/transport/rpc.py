"""The agent's hands: the processes that do what it does not do itself, each behind a connection that is made again when it breaks."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from kubenetlab.lab.log import log
from kubenetlab.lab.transport.channel import Caller, Channel
from kubenetlab.lab.transport.frames import Message

RECONNECT_S = 0.02

OnEvent = Callable[[Message], None]


class RpcClient:
    """One process: requests to it, and what it says unasked.

    Its listening socket belongs to init, so to connect succeeds even while the process is being started; it answers when it is there.
    `on_connect` is called after each connection but the first: whatever the process knew is gone.
    """

    def __init__(
        self, name: str, path: str, on_event: OnEvent, on_connect: Callable[[], None]
    ) -> None:
        self.name = name
        self._path = path
        self._on_event = on_event
        self._on_connect = on_connect
        self._caller: Caller | None = None
        self._connected = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(exit_on_failure)

    async def call(self, **request: Any) -> Message:
        """The answer, or `{"error": …}` when the process died before it gave one."""
        await self._connected.wait()
        caller = self._caller
        if caller is None:
            return {"error": f"the {self.name} is being started again"}
        try:
            return await caller.call(**request)
        except ConnectionError:
            return {"error": f"the {self.name} died"}

    async def call_each(
        self, request: Mapping[str, Any], each: Mapping[asyncio.Future[Message], Mapping[str, Any]]
    ) -> None:
        """One request about several things: each future gets the answer about its own, or `{"error": …}`."""
        await self._connected.wait()
        if self._caller is None:
            for future in each:
                if not future.done():
                    future.set_result({"error": f"the {self.name} is being started again"})
        else:
            self._caller.call_each(request, each)

    async def _run(self) -> None:
        is_first = True
        while True:
            try:
                caller = self._caller = Caller(await Channel.connect(self._path))
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            self._connected.set()
            if not is_first:
                log(f"the {self.name} is back")
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
            log(f"the {self.name} went away")


def exit_on_failure(task: asyncio.Task[Any]) -> None:
    """For a task without which this process is of no use, deaf or not heard: should it end, let the next one try."""
    if not task.cancelled():
        if (error := task.exception()) is not None:
            log("".join(traceback.format_exception(error)))
        os._exit(1)
