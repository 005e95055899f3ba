"""Watchers: events that are set whenever something has changed, one for each client that waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    """Those who wait for changes of the store, or for the agent to be idle."""

    def __init__(self) -> None:
        self._events: set[asyncio.Event] = set()

    @contextmanager
    def one(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set at every change, as long as the block lasts."""
        event = asyncio.Event()
        self._events.add(event)
        try:
            yield event
        finally:
            self._events.discard(event)

    def notify(self) -> None:
        """Set every event."""
        for event in self._events:
            event.set()
