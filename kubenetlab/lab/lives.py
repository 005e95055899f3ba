"""Lives: the deaths of pause processes, told as they happen."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class Lives:
    """Watches pause processes by pidfd. `on_death` is called once with the namespace of each that dies.

    The event loop has one descriptor of ours for all of them, an epoll: one apiece costs it a callback each.
    """

    def __init__(self, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self._epoll: select.epoll | None = None
        self._lives: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def watch(self, netns: str, pid: int) -> int | None:
        """Of one that has died meanwhile it is told soon. Its pidfd, which is ours; None when it is dead."""
        loop = asyncio.get_running_loop()
        if self._epoll is None:
            self._epoll = select.epoll()
            loop.add_reader(self._epoll.fileno(), self._hear, self._epoll)
        try:
            life = self._lives[netns] = os.pidfd_open(pid)
        except ProcessLookupError:
            loop.call_soon(self._on_death, netns)
            return None
        self._names[life] = netns
        self._epoll.register(life, select.EPOLLIN)
        return life

    def unwatch(self, netns: str) -> None:
        life = self._lives.pop(netns, None)
        if life is not None and self._epoll is not None:
            del self._names[life]
            self._epoll.unregister(life)
            os.close(life)

    def _hear(self, epoll: select.epoll) -> None:
        for life, netns in [(life, self._names[life]) for life, _ in epoll.poll(0)]:
            if self._lives.get(netns) == life:  # who is told of one death may not care for the next any more
                self.unwatch(netns)
                self._on_death(netns)


def reap() -> None:
    """Takes note of the children that have ended: pauses are the agent's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
