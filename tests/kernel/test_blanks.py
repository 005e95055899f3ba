"""Network namespaces that are made ahead."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest

from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.kernel.blanks import WORTH_IT, Blanks, ahead
from kubenetlab.kernel.linux import LinuxKernel


def blanks(count: int) -> Blanks:
    """At most so many, one of which is there at least."""
    source = ahead(count)
    assert source is not None
    select.select([source], [], [], 10)
    return Blanks(source)


def test_they_come_from_a_process_that_ends() -> None:
    """Each is another one, and no more are made when it has been said that there are enough."""
    there = blanks(5 * WORTH_IT)
    found = list(iter(there.take, None))
    os.wait()
    assert 0 < len({os.fstat(fd).st_ino for fd in found}) == len(found) <= 5 * WORTH_IT
    for fd in found:
        os.close(fd)
    there.close()


def test_they_are_there_when_who_made_them_is_gone() -> None:
    """It ended without reading that there are enough, of which the kernel tells us first."""
    source = ahead(5 * WORTH_IT)
    assert source is not None
    there = Blanks(source)
    os.waitid(os.P_ALL, 0, os.WEXITED)
    found = list(iter(there.take, None))
    assert found
    for fd in found:
        os.close(fd)
    there.close()


def test_few_are_open_at_one_time() -> None:
    """The others wait in the socket, and with it they are gone."""
    before = len(os.listdir("/proc/self/fd"))
    there = blanks(5 * WORTH_IT)
    fd = there.take()
    assert fd is not None
    assert before + 1 < len(os.listdir("/proc/self/fd")) <= before + 1 + 64
    os.close(fd)
    there.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert there.take() is None
    os.wait()


def test_for_few_there_is_no_time() -> None:
    """Nothing is made ahead for a small lab."""
    assert ahead(WORTH_IT - 1) is None


def test_a_sandbox_takes_one_that_is_there(kernel: Callable[[], LinuxKernel], monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in that very namespace, of which no descriptor is left."""
    sandboxes = kernel().sandboxes
    sandboxes.blanks = there = blanks(WORTH_IT)
    taken: list[int] = []

    def take() -> int | None:
        fd = Blanks.take(there)
        assert fd is not None
        taken.append(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(there, "take", take)
    before = len(os.listdir("/proc/self/fd"))
    sandbox = Sandbox("n", "host")
    sandboxes.hold(sandbox, sandboxes.network(sandbox, lambda: None))
    fd = sandboxes.open("n")
    assert [os.fstat(fd).st_ino] == taken
    os.close(fd)
    sandboxes.close_blanks()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert sandboxes.blanks is None
    sandboxes.remove("n")
    os.wait()
