"""Log of a lab: one line per event, with the time, written to standard error.

Init redirects standard error of every process to the log file. A line that cannot be written, for
example to a full disk, is dropped: a process must not fail or wait because of its log.
"""

import sys
import time
from contextlib import suppress


def log(message: str) -> None:
    """Write one line with the current time."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    write_text(f"{stamp}.{int(now % 1 * 1000):03d}Z {message}")


def write_text(text: str) -> None:
    """Write a text without a time stamp."""
    with suppress(OSError):
        # In one write, because other processes write to the same file.
        print(f"{text}\n", end="", file=sys.stderr, flush=True)
