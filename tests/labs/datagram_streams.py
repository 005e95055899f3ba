"""Streams of connections between places of a lab, each of which policies decide about anew."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-S", "-E", str(Path(__file__).with_name("datagrams.py")))
PORT = 7777
"""UDP port of receivers."""
SERVER_PORT = 8080
"""TCP port of the pods' server."""
DATAGRAM_INTERVAL_S, CONNECTION_INTERVAL_S = 0.0005, 0.002


class Sender:
    """A program that sends datagrams, or opens connections, until `stop`."""

    def __init__(
        self,
        netns: str,
        address: str,
        interval_s: float = DATAGRAM_INTERVAL_S,
        port: int = PORT,
        *,
        tcp: bool = False,
    ) -> None:
        role = "connect" if tcp else "send"
        self._process = _start(role, netns, address, str(port), str(interval_s))

    def go_on(self, seconds: float) -> None:
        """Wait until datagrams have been sent for some more time."""
        assert self._process.stdout is not None
        end_at = time.monotonic_ns() + seconds * 1e9
        while int(self._process.stdout.readline()) < end_at:
            pass

    def stop(self) -> Any:
        """Return the report of the program."""
        return _report(self._process)


class Receiver:
    """A program that receives datagrams until `stop`."""

    def __init__(self, netns: str, port: int = PORT) -> None:
        self._process = _start("receive", netns, str(port))

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> list[int]:
        """Return when each datagram was sent that has arrived, by the monotonic clock in ns."""
        times: list[int] = _report(self._process)
        return times


class Stream:
    """Datagrams or TCP connections from one place to another."""

    def __init__(self, sender: Sender, receiver: Receiver | None) -> None:
        self.passed_at: list[int] = []
        """Time when each one was sent or begun that has passed; set when the stream has ended."""
        self.sent = 0
        """Number of datagrams sent; set when the stream has ended."""
        self._sender = sender
        self._receiver = receiver
        self._has_ended = False

    def go_on(self, seconds: float) -> None:
        self._sender.go_on(seconds)

    def end(self) -> None:
        """End the stream, once."""
        if self._has_ended:
            return
        self._has_ended = True
        report = self._sender.stop()
        if self._receiver is None:
            self.passed_at = report
        else:
            self.sent, self.passed_at = report[0], self._receiver.stop()

    def passed_after(self, moment: float) -> list[float]:
        """Return how long after a moment those were sent that have passed, in seconds.

        moment: time by the monotonic clock, in seconds.
        """
        return [late for at in self.passed_at if (late := at / 1e9 - moment) > 0]


@contextmanager
def streaming(
    source: Any, destination: Any, address: str = "", *, port: int = PORT, tcp: bool = False
) -> Iterator[Stream]:
    """Send from one place to another; the stream ends after the block.

    address: address of the destination; its first one without. port: UDP port.
    """
    receiver = None if tcp else Receiver(destination["netns"], port)
    if receiver is not None:
        receiver.wait_until_ready()
    interval_s = CONNECTION_INTERVAL_S if tcp else DATAGRAM_INTERVAL_S
    target = address or destination["addresses"][0]
    port = SERVER_PORT if tcp else port
    stream = Stream(Sender(source["netns"], target, interval_s, port, tcp=tcp), receiver)
    try:
        yield stream
    finally:
        stream.end()


def _start(*words: str) -> subprocess.Popen[str]:
    line = [*PROGRAM, *words]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _report(process: subprocess.Popen[str]) -> Any:
    """Close the standard input of a program; return its report."""
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])
