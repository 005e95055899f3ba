"""The exit of each pause process is reported once, even if it precedes the watch."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.exit_watcher import ExitWatcher
from tests.patience import patiently


def sleeper() -> Pause:
    """Start a child of this process in place of a pause process."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    return Pause(ProcessId.of(pid))


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(patiently(10)):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


@pytest.mark.parametrize("exits", ["before", "after"])
def test_an_exit_is_reported_once(exits: str) -> None:
    """This holds for an exit before and after `watch`; the pid stays in use until `reap`."""

    async def scenario() -> None:
        reported: list[tuple[str, Pause]] = []
        watcher = ExitWatcher(lambda netns, pause: reported.append((netns, pause)))
        pause = sleeper()
        if exits == "before":
            pause.kill()
        watcher.watch("pod/a", pause)
        pause.kill()
        await until(lambda: bool(reported))
        watcher.poll()
        assert reported == [("pod/a", pause)]
        assert ProcessId.of(pause.pid) == pause.id
        watcher.reap()
        with pytest.raises(ProcessLookupError):
            ProcessId.of(pause.pid)

    asyncio.run(scenario())


def test_two_processes_of_the_same_sandbox_are_reported_separately() -> None:
    """A successor may be watched before the exit of its predecessor is noticed."""

    async def scenario() -> None:
        reported: list[tuple[str, Pause]] = []
        watcher = ExitWatcher(lambda netns, pause: reported.append((netns, pause)))
        former, successor = sleeper(), sleeper()
        watcher.watch("pod/a", former)
        former.kill()
        watcher.watch("pod/a", successor)
        await until(lambda: bool(reported))
        assert reported == [("pod/a", former)]
        successor.kill()
        await until(lambda: len(reported) == 2)
        assert reported[1] == ("pod/a", successor)
        watcher.reap()

    asyncio.run(scenario())


def test_many_exits_leave_no_descriptor() -> None:
    """Every exit is reported, including one that the report of another exit causes."""

    async def scenario() -> None:
        reported: list[str] = []
        pauses = [sleeper() for _ in range(20)]

        def report(netns: str, pause: Pause) -> None:
            reported.append(netns)
            pauses[-1].kill()

        watcher = ExitWatcher(report)
        watcher.poll()
        before = len(os.listdir("/proc/self/fd"))
        for number, pause in enumerate(pauses):
            watcher.watch(f"pod/{number}", pause)
        for pause in pauses[:-1]:
            pause.kill()
        await until(lambda: len(reported) == len(pauses))
        watcher.reap()
        assert sorted(reported) == sorted(f"pod/{number}" for number in range(len(pauses)))
        assert len(os.listdir("/proc/self/fd")) == before + 1  # the watcher's own

    asyncio.run(scenario())


def test_a_reaped_pause_process_is_not_signalled() -> None:
    """Its pid may be another process's."""
    pause = sleeper()
    pause.open()
    os.kill(pause.pid, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pause.pidfd, os.WEXITED | os.WNOWAIT)
    assert pause.reap()
    pause.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pause.pid, 0)
