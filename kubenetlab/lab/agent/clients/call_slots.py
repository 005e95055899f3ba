"""Limit of concurrent calls of CNI plugins, shared fairly by the nodes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

SLOW_S: Final = 2.0
"""Time after which a call no longer counts, in seconds: it waits rather than computes."""
MAX_PER_NODE: Final = 8
"""Maximum number of concurrent calls on one node, including the slow ones."""


class CallSlots:
    """Slots for concurrent calls; a free slot goes to the node with the fewest calls.

    Calls on one node wait for each other's locks (host-local, iptables), and each concurrent call
    needs a process in the namespaces of its node. So calls on different nodes are preferred. A
    plugin that hangs does not keep the other nodes waiting, because its slot is free after
    `SLOW_S`.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._is_dispatching = False

    @property
    def pending(self) -> int:
        """Number of calls that are running or waiting."""
        return self._running.total() + sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(self, node: str) -> AsyncIterator[None]:
        """Wait for a slot of a node, and hold it for the duration of the block."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(node, deque()).append(future)
        self._dispatch_soon()
        await future
        release = _once(self._release)
        timer = loop.call_later(SLOW_S, release)
        try:
            yield
        finally:
            timer.cancel()
            self._running[node] -= 1
            release()
            self._dispatch_soon()

    def _release(self) -> None:
        self._free += 1
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Assign free slots once all tasks that are ready to run have asked for theirs."""
        if not self._is_dispatching:
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_dispatching = False
        while self._free > 0:
            nodes = [node for node in self._waiting if self._running[node] < MAX_PER_NODE]
            if not nodes:
                return
            node = min(nodes, key=self._running.__getitem__)
            future = self._waiting[node].popleft()
            if not self._waiting[node]:
                del self._waiting[node]
            if not future.done():  # else the task that waited for it was cancelled
                self._free -= 1
                self._running[node] += 1
                future.set_result(None)


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """Return a function whose first call calls `action`, and whose other calls do nothing."""
    actions = [action]
    return lambda: actions.pop()() if actions else None
