"""Deaths of pause processes are told once each, also of those who died before anybody looked."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from kubenetlab.lab.lives import Lives


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_death_is_told_once(dies: str) -> None:
    """Whether it was watched in time or not."""

    async def lives() -> list[str]:
        told: list[str] = []
        heard = asyncio.Event()

        def hear(netns: str) -> None:
            told.append(netns)
            heard.set()

        process = subprocess.Popen(["sleep", "60"])
        watched = Lives(hear)
        if dies == "before":
            process.kill()
            process.wait()
        watched.watch("pod/a", process.pid)
        process.kill()
        process.wait()
        async with asyncio.timeout(10):
            await heard.wait()
        watched.unwatch("pod/a")
        return told

    assert asyncio.run(lives()) == ["pod/a"]


def test_whoever_is_not_watched_any_more_may_die() -> None:
    """Nothing is told, and no descriptor is left."""

    async def leave() -> list[str]:
        told: list[str] = []
        watched = Lives(told.append)
        process = subprocess.Popen(["sleep", "60"])
        counts = []
        for _ in range(2):
            life = watched.watch("pod/a", process.pid)
            assert life is not None
            watched.unwatch("pod/a")
            counts.append(len(os.listdir("/proc/self/fd")))
        process.kill()
        process.wait()
        await asyncio.sleep(0)
        assert counts[0] == counts[1]
        return told

    assert asyncio.run(leave()) == []


def test_several_deaths_at_once() -> None:
    """Each is told once; of one that is given up while the others are told nothing is said."""

    async def lives() -> list[str]:
        told: list[str] = []
        heard = asyncio.Event()

        def hear(netns: str) -> None:
            told.append(netns)
            watched.unwatch("pod/2" if netns != "pod/2" else "pod/1")
            if len(told) == 3:
                heard.set()

        watched = Lives(hear)
        processes = [subprocess.Popen(["sleep", "60"]) for _ in range(4)]
        for number, process in enumerate(processes):
            watched.watch(f"pod/{number}", process.pid)
        for process in processes:
            process.kill()
            process.wait()
        async with asyncio.timeout(10):
            await heard.wait()
        return told

    told = asyncio.run(lives())
    assert len(set(told)) == 3
    assert {"pod/0", "pod/3"} < set(told)
