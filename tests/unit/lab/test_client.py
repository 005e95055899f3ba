"""Client of a lab: its init is the process that created the socket, not one with a reused pid."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from kubenetlab.errors import LabError
from kubenetlab.lab.client import Client


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Pids of init that successive connections report; None for a refused connection."""
    answers: list[int | None] = []
    following: Iterator[int | None] = iter(answers)

    def init_pid(client: Client) -> int:
        if (pid := next(following)) is None:
            raise LabError("no lab is up")
        return pid

    monkeypatch.setattr(Client, "init_pid", property(init_pid))
    return answers


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_init_is_the_process_that_answers_before_and_after_it_is_opened(
    pids: list[int | None],
) -> None:
    """The caller gets a pidfd of that process, and owns it."""
    pids += [os.getpid()] * 2
    before = open_descriptors()
    pidfd = Client("any").open_init()
    assert open_descriptors() == before + 1
    os.close(pidfd)


@pytest.mark.parametrize("then", [None, 1], ids=["refused", "another"])
def test_a_process_that_reuses_the_pid_of_init_is_not_killed(
    pids: list[int | None], then: int | None
) -> None:
    """The lab ends between the two connections: `kill` returns False and closes the pidfd."""
    pids += [os.getpid(), then, os.getpid(), then]
    before = open_descriptors()
    with pytest.raises(LabError):
        Client("any").open_init()
    assert not Client("any").kill()
    assert open_descriptors() == before


def test_a_stream_of_an_agent_that_dies_before_it_reads_the_request_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller asks its successor. As a BrokenPipeError, it would end a command silently."""
    ours, theirs = socket.socketpair()
    theirs.close()
    monkeypatch.setattr(Client, "_connect", lambda client: ours)
    assert list(Client("any").stream("/any")) == []
