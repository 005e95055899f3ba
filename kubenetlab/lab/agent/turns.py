"""Pauses in the agent's work, in which the event loop serves clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Final, TypeVar, cast

from kubenetlab.errors import BugError

T = TypeVar("T")

LONGEST_S: Final = 0.05
"""Duration of work after which the agent pauses, in seconds."""
ANSWERING_S: Final = 0.005
"""Length of a pause, in seconds: a request takes several iterations of the event loop."""


class Turns:
    """Measures the work of the agent since clients were served, and pauses when it took long."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def reset(self) -> None:
        """Begin to measure: clients have just been served, or the agent has waited."""
        self._last = time.monotonic()

    async def yield_to_clients(self) -> None:
        """Pause if the steps since the last pause took over LONGEST_S together."""
        if time.monotonic() - self._last > LONGEST_S:
            await asyncio.sleep(ANSWERING_S)
            self.reset()


def run_synchronously(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine that never waits, and return its result.

    A request that changes the lab must not wait: another request could change the lab meanwhile,
    and undoing the first change would undo both.
    Raises BugError if the coroutine waits; it is closed then.
    """
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    work.close()
    raise BugError("a request that changes the lab waited for something")
