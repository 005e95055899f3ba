"""Holding: who has to wait for whom, and who is told when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from kubenetlab.kernel.namespaces.pause_starter import STARTERS, PauseStarter

DEADLINE_S = 10


def test_one_beneath_another_comes_first_and_news_come_last() -> None:
    """Several at once, but for those that need another; told is when the last of those that are named has ended."""
    done: list[str] = []
    may_go = Event()

    def slow() -> None:
        assert may_go.wait(DEADLINE_S)
        done.append("node")

    with ThreadPoolExecutor(STARTERS) as pool:
        holding = PauseStarter(pool)
        holding.when_held(["node"], lambda: done.append("nothing is under way"))
        holding.begin("node", slow)
        holding.begin("pod", lambda: done.append("pod"))
        holding.begin("host pod", lambda: done.append("host pod"), beneath=["node"])
        holding.when_held(["node", "pod", "host pod", "unknown"], lambda: done.append("news"))
        may_go.set()
        holding.finish()
    assert done[0] == "nothing is under way"
    assert done[-1] == "news"
    assert done.index("node") < done.index("host pod")
    assert sorted(done[1:-1]) == ["host pod", "node", "pod"]


def test_what_nobody_expected_is_not_lost() -> None:
    """It is raised in the end, and those who wait are told all the same."""
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    with ThreadPoolExecutor(STARTERS) as pool:
        holding = PauseStarter(pool)
        holding.begin("a", fail)
        holding.when_held(["a"], lambda: told.append("a"))
        with pytest.raises(RuntimeError, match="a bug"):
            holding.finish()
    assert told == ["a"]
