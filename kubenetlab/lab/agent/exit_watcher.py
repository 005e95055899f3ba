"""Watch pause processes and report when they exit."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from kubenetlab.kernel.namespaces.sandboxes import Pause

OnExit = Callable[[str, Pause], None]
"""Called with the name of a sandbox and the pause process that has exited.

Another pause process may hold the sandbox by then.
"""


class ExitWatcher:
    """Calls `on_exit` once for each watched pause process that exits.

    An exited process is reaped by `reap`. Until then its pid is not used again, which the thread
    that changes the kernel relies on. All pidfds share one epoll instance, because the event loop
    would otherwise run one callback per process and per loop iteration.
    """

    def __init__(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit
        self._epoll: select.epoll | None = None
        self._watched: dict[int, tuple[str, Pause]] = {}
        """Watched processes by pidfd."""
        self._exited: list[Pause] = []
        """Reported and not yet reaped."""

    def watch(self, netns: str, pause: Pause) -> None:
        """Watch the pause process of a sandbox; the event loop reports an earlier exit, too."""
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self.poll)
        pidfd = pause.open()
        self._watched[pidfd] = netns, pause
        self._epoll.register(pidfd, select.EPOLLIN)

    def poll(self) -> None:
        """Report every exit that the kernel has announced so far."""
        while self._epoll is not None and (events := self._epoll.poll(0)):
            for pidfd, _ in events:
                netns, pause = self._watched.pop(pidfd)
                self._epoll.unregister(pidfd)
                self._exited.append(pause)
                self._on_exit(netns, pause)

    def wait(self, pause: Pause, timeout_s: float) -> None:
        """Wait for the exit of a watched process that was killed, and report it."""
        poll = select.poll()
        poll.register(pause.open(), select.POLLIN)
        poll.poll(1000 * timeout_s)
        self.poll()

    def reap(self) -> None:
        """Reap the processes that were reported.

        Call it only while no other thread uses the pid of one of them.
        """
        self._exited = [pause for pause in self._exited if not pause.reap()]
