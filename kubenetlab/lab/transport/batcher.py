"""Batches of items that are added in one iteration of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Collector of items, which delivers those of one loop iteration together in the next one.

    The first item schedules the delivery, so that it precedes all callbacks scheduled after it.
    """

    def __init__(self, deliver: Callable[[list[T]], None]) -> None:
        self._deliver = deliver
        self._pending: list[T] = []

    def add(self, item: T) -> None:
        """Add an item to the current batch."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._deliver_all)
        self._pending.append(item)

    def _deliver_all(self) -> None:
        batch, self._pending = self._pending, []
        self._deliver(batch)
