"""The lab's log: one line a thing, with the time, to the file that init gave every process as its standard error.

What cannot be written, on a disk that is full, is lost: nobody ends or waits because of what he has to say.
"""

import sys
import time
from contextlib import suppress


def log(message: str) -> None:
    """Writes one line."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    say(f"{stamp}.{int(now % 1 * 1000):03d}Z {message}")


def say(text: str) -> None:
    """Writes a text as it is."""
    with suppress(OSError):
        print(
            f"{text}\n", end="", file=sys.stderr, flush=True
        )  # at once: others write to the same file
