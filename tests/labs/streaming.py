"""Connections at a steady pace from a place of a lab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

STREAM = Path(__file__).with_name("stream.py")


@contextmanager
def streaming(place: Any, address: str, port: int, per_second: float) -> Iterator[IO[str]]:
    """Yield the output of stream.py.

    After the block, the remaining lines are read; none may be a failure.
    """
    line = [
        "nsenter",
        f"--net={place['netns']}",
        sys.executable,
        "-S",
        "-E",
        str(STREAM),
        address,
        str(port),
        str(per_second),
    ]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdin is not None
        assert stream.stdout is not None
        yield stream.stdout
        stream.stdin.close()
        failed = [line for line in stream.stdout if line.startswith("failed")]
    assert not failed, failed
