"""Network namespaces that are made ahead."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.kernel.blanks import WORTH_IT, ahead, receive
from kubenetlab.kernel.linux import LinuxKernel


def received(count: int) -> list[int]:
    """Those that were made until one was seen; their maker has ended."""
    source = ahead(count)
    assert source is not None
    first, fds, _, _ = socket.recv_fds(source, 1, count)
    assert first
    with source:
        return [*fds, *receive(source)]


def test_they_come_from_a_process_that_ends() -> None:
    """Each is another one, and no more are made when it has been said that there are enough."""
    found = received(5 * WORTH_IT)
    os.wait()
    assert len({os.fstat(fd).st_ino for fd in found}) == len(found) <= 5 * WORTH_IT
    for fd in found:
        os.close(fd)


def test_for_few_there_is_no_time() -> None:
    """Nothing is made ahead for a small lab."""
    assert ahead(WORTH_IT - 1) is None


def test_a_sandbox_takes_one_that_is_there(kernel: Callable[[], LinuxKernel]) -> None:
    """It stands in that very namespace; those that nobody needs are closed."""
    sandboxes = kernel().sandboxes
    sandboxes.blanks = received(WORTH_IT)
    last = os.fstat(sandboxes.blanks[-1]).st_ino
    count = len(os.listdir("/proc/self/fd"))
    sandboxes.make(Sandbox("n", "host"), lambda: None)
    fd = sandboxes.open("n")
    assert os.fstat(fd).st_ino == last
    os.close(fd)
    rest = len(sandboxes.blanks)
    sandboxes.close_blanks()
    assert len(os.listdir("/proc/self/fd")) == count - 1 - rest
    sandboxes.remove("n")
