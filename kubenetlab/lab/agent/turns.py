"""Turns between the agent's own work and its clients, who share one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast

from kubenetlab.errors import BugError

T = TypeVar("T")

LONGEST_S: Final = 0.05
"""How long the agent may work before clients are answered."""
ANSWERING_S: Final = 0.005
"""How long they are answered then: a request takes several turns of the loop."""


class Turns:
    """When clients were answered last."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def begin(self) -> None:
        """Note that clients have just had their turn."""
        self._last = time.monotonic()

    async def give(self) -> None:
        """Let clients be answered, if they have been waiting for long."""
        if time.monotonic() - self._last > LONGEST_S:
            await asyncio.sleep(ANSWERING_S)
        self.begin()


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits.

    A change that waited would let another one in between, and taking the first back would take both back.
    Raises BugError when it waits; it is closed then.
    """
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    work.close()
    raise BugError("a request that changes the lab waited for something")
