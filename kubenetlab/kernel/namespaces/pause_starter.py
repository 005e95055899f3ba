"""Start of pause processes in threads, while the next network namespaces are filled.

Starting a process takes the kernel little time, but the process then waits for a processor; several
are therefore started at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, NamedTuple

STARTERS: Final = 2
"""Number of threads that start pause processes."""


class _Waiter(NamedTuple):
    """Callback that runs when no namespace in `missing` is being held any more."""

    missing: set[str]
    callback: Callable[[], None]


class PauseStarter:
    """Pause processes of one apply that are being started by a thread pool.

    The methods are called by one thread.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._tasks: dict[str, Future[None]] = {}
        self._lock = Lock()
        """Protects the attributes below, which the pool's threads change."""
        self._running: set[str] = set()
        self._waiters: dict[str, list[_Waiter]] = {}

    def start(self, netns: str, hold: Callable[[], None], after: Iterable[str] = ()) -> None:
        """Call `hold` in a thread of the pool, once the namespaces in `after` are held."""
        prerequisites = [self._tasks[other] for other in after if other in self._tasks]
        with self._lock:
            self._running.add(netns)
        self._tasks[netns] = self._pool.submit(self._hold, netns, hold, prerequisites)

    def call_when_held(self, namespaces: Iterable[str], callback: Callable[[], None]) -> None:
        """Call `callback` when none of these namespaces is being held; in any thread."""
        with self._lock:
            waiter = _Waiter({netns for netns in namespaces if netns in self._running}, callback)
            for netns in waiter.missing:
                self._waiters.setdefault(netns, []).append(waiter)
            is_due = not waiter.missing  # read under the lock: a thread may empty it right after
        if is_due:
            callback()

    def finish(self) -> None:
        """Wait until all threads are done and all callbacks were called.

        Raises the exception of a `hold` that failed.
        """
        for task in self._tasks.values():
            task.result()

    def _hold(
        self, netns: str, hold: Callable[[], None], prerequisites: Iterable[Future[None]]
    ) -> None:
        for task in prerequisites:
            task.result()
        try:
            hold()
        finally:
            for callback in self._mark_ended(netns):
                callback()

    def _mark_ended(self, netns: str) -> list[Callable[[], None]]:
        """Record that a namespace is held; return the callbacks that are due."""
        with self._lock:
            self._running.discard(netns)
            waiters = self._waiters.pop(netns, [])
            for waiter in waiters:
                waiter.missing.discard(netns)
            return [waiter.callback for waiter in waiters if not waiter.missing]
