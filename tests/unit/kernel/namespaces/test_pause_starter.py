"""The order in which pause processes are started, and the calls of the callbacks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from kubenetlab.kernel.namespaces.pause_starter import STARTERS, PauseStarter

DEADLINE_S = 10


def test_prerequisites_are_held_first_and_callbacks_are_called_last() -> None:
    """Namespaces are held in parallel, but a prerequisite comes first.

    A callback is called when the last of its namespaces is held.
    """
    done: list[str] = []
    may_finish = Event()

    def hold_node() -> None:
        assert may_finish.wait(DEADLINE_S)
        done.append("node")

    with ThreadPoolExecutor(STARTERS) as pool:
        starter = PauseStarter(pool)
        starter.call_when_held(["node"], lambda: done.append("nothing was started"))
        starter.start("node", hold_node)
        starter.start("pod", lambda: done.append("pod"))
        starter.start("host pod", lambda: done.append("host pod"), after=["node"])
        starter.call_when_held(
            ["node", "pod", "host pod", "unknown"], lambda: done.append("all held")
        )
        may_finish.set()
        starter.finish()
    assert done[0] == "nothing was started"
    assert done[-1] == "all held"
    assert done.index("node") < done.index("host pod")
    assert sorted(done[1:-1]) == ["host pod", "node", "pod"]


def test_an_unexpected_exception_is_raised_by_finish() -> None:
    """Callbacks are called all the same."""
    called: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    with ThreadPoolExecutor(STARTERS) as pool:
        starter = PauseStarter(pool)
        starter.start("a", fail)
        starter.call_when_held(["a"], lambda: called.append("a"))
        with pytest.raises(RuntimeError, match="a bug"):
            starter.finish()
    assert called == ["a"]


def test_a_callback_is_called_once_when_its_namespace_is_held_meanwhile() -> None:
    """The thread of the last namespace may end right after the callback was registered."""
    called: list[str] = []

    class EndingLock:
        """Lock at whose release another thread ends the namespace `a`."""

        is_armed = True

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            if self.is_armed:
                self.is_armed = False
                for callback in starter._mark_ended("a"):
                    callback()

    with ThreadPoolExecutor(STARTERS) as pool:
        starter = PauseStarter(pool)
        starter._running.add("a")
        starter._lock = EndingLock()  # type: ignore[assignment]
        starter.call_when_held(["a"], lambda: called.append("a"))
    assert called == ["a"]
