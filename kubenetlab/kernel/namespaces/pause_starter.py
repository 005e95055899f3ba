"""Holding: pause processes are started beside the making of the next networks, and somebody is told when they are there.

To start one takes the kernel little time, and then it waits for a processor: so several are started at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, NamedTuple

STARTERS: Final = 2


class _News(NamedTuple):
    missing: set[str]
    tell: Callable[[], None]


class PauseStarter:
    """The namespaces of one apply whose pause processes are under way, in threads of a pool. Used from one thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._tasks: dict[str, Future[None]] = {}
        self._lock = Lock()
        """Of what follows, which the pool's threads change."""
        self._open: set[str] = set()
        self._awaited: dict[str, list[_News]] = {}

    def begin(self, netns: str, hold: Callable[[], None], beneath: Iterable[str] = ()) -> None:
        """Has `hold` called, when it has been for the namespaces `beneath`."""
        before = [self._tasks[other] for other in beneath if other in self._tasks]
        with self._lock:
            self._open.add(netns)
        self._tasks[netns] = self._pool.submit(self._hold, netns, hold, before)

    def when_held(self, among: Iterable[str], tell: Callable[[], None]) -> None:
        """Has `tell` called when none of these namespaces is under way any more, in whatever thread."""
        with self._lock:
            news = _News({netns for netns in among if netns in self._open}, tell)
            for netns in news.missing:
                self._awaited.setdefault(netns, []).append(news)
        if not news.missing:
            tell()

    def finish(self) -> None:
        """Returns when all is done, and everybody told."""
        for task in self._tasks.values():
            task.result()

    def _hold(self, netns: str, hold: Callable[[], None], before: Iterable[Future[None]]) -> None:
        for task in before:
            task.result()
        try:
            hold()
        finally:
            for tell in self._ended(netns):
                tell()

    def _ended(self, netns: str) -> list[Callable[[], None]]:
        """Who is to be told now."""
        with self._lock:
            self._open.discard(netns)
            awaited = self._awaited.pop(netns, [])
            for news in awaited:
                news.missing.discard(netns)
            return [news.tell for news in awaited if not news.missing]
