"""Exits of pause processes are reported once each, also of those that exited before they were watched."""

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
    """A child of this process in place of a pause process."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    return Pause(ProcessId.of(pid))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patiently(10)):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("exits", ["before", "after"])
def test_an_exit_is_reported_once(exits: str) -> None:
    """Whether it was watched in time or not; the process keeps its pid until it is reaped."""

    async def story() -> None:
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

    asyncio.run(story())


def test_each_of_two_processes_of_one_name_is_reported_as_itself() -> None:
    """A successor may be watched before the exit of its predecessor has been noticed."""

    async def story() -> None:
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

    asyncio.run(story())


def test_many_exits_at_once_leave_no_descriptor() -> None:
    """All are reported, also those that the report of another one makes exit."""

    async def story() -> None:
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

    asyncio.run(story())


def test_a_pause_process_whose_pid_may_be_in_use_again_is_not_signalled() -> None:
    """Once it is reaped, its number means nothing."""
    pause = sleeper()
    pause.open()
    os.kill(pause.pid, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pause.pidfd, os.WEXITED | os.WNOWAIT)
    assert pause.reap()
    pause.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pause.pid, 0)
