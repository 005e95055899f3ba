"""Lives: the deaths of pause processes, told as they happen."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class Lives:
    """Watches pause processes by pidfd. `on_death` is called once with the namespace of each that dies."""

    def __init__(self, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self._pidfds: dict[str, int] = {}

    def watch(self, netns: str, pid: int) -> None:
        """Of one that has died meanwhile it is told soon."""
        loop = asyncio.get_running_loop()
        try:
            life = self._pidfds[netns] = os.pidfd_open(pid)
        except ProcessLookupError:
            loop.call_soon(self._on_death, netns)
            return
        loop.add_reader(life, self._died, netns)

    def unwatch(self, netns: str) -> None:
        life = self._pidfds.pop(netns, None)
        if life is not None:
            asyncio.get_running_loop().remove_reader(life)
            os.close(life)

    def _died(self, netns: str) -> None:
        self.unwatch(netns)
        self._on_death(netns)


def reap() -> None:
    """Takes note of the children that have ended: pauses are the agent's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
