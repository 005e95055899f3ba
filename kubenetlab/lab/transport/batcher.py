"""What happens in one turn of an event loop, told together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Gathers things, and tells them when the turn is over, before anybody who waits for what happened in it goes on."""

    def __init__(self, tell: Callable[[list[T]], None]) -> None:
        self._tell = tell
        self._untold: list[T] = []

    def add(self, thing: T) -> None:
        if not self._untold:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._untold.append(thing)

    def _tell_all(self) -> None:
        untold, self._untold = self._untold, []
        self._tell(untold)
