"""Turns between the agent's own work and its clients, who share one event loop."""

from __future__ import annotations

import asyncio
import time
from typing import Final

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
