"""The lab's log: one line a thing, with the time, to the file that init gave every process as its standard error."""

import sys
import time


def log(message: str) -> None:
    """Writes one line."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    print(f"{stamp}.{int(now % 1 * 1000):03d}Z {message}", file=sys.stderr, flush=True)
