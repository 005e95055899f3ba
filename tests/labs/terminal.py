"""Commands on a pseudo-terminal."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable

from tests.labs.lab import DEADLINE_S


def on_terminal(
    execute: Callable[[], object], *steps: tuple[str, str], width: int = 100
) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit status and everything it drew.

    execute: called in the child process; it replaces the process by the command.
    steps: pairs of a text to wait for and a text to type then, in order.
    width: columns of the terminal.
    """
    child, terminal = pty.fork()
    if child == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
            execute()
        finally:
            os._exit(127)
    decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
    drawn, seen_length, deadline, pending = "", 0, time.monotonic() + DEADLINE_S, list(steps)
    while True:
        assert time.monotonic() < deadline, drawn
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the last process of the terminal has ended
            break
        if not data:
            break
        drawn += decoder.decode(data)
        while pending and pending[0][0] in drawn[seen_length:]:
            seen_length = len(drawn)
            os.write(terminal, pending.pop(0)[1].encode())
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), drawn
