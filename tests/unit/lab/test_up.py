"""Creation of a lab, as far as it needs no lab."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from kubenetlab.kernel.processes.identity import ProcessId, open_process
from kubenetlab.lab import up
from kubenetlab.lab.messages.creation import InitStarted
from kubenetlab.lab.transport.frames import encode


@pytest.fixture(autouse=True)
def same_mask() -> Iterator[None]:
    """Restore the signals that are blocked, for the tests that follow."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process in place of a lab's init."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_init_is_killed_if_a_signal_arrives_with_its_pid(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal does not interrupt the call that opens init, and nothing of a lab is left."""

    def open_interrupted(init: ProcessId) -> int:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # pytest may have other threads
        return open_process(init)

    monkeypatch.setattr(up, "open_process", open_interrupted)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(encode(InitStarted(ProcessId.of(process.pid))))
        creation = up._Creation("lab")
        creation._socket = ours
        with pytest.raises(KeyboardInterrupt):
            creation.wait_until_built(lambda message: None, keep_failed=False)
        creation.finish()
    assert process.poll() == -signal.SIGKILL
