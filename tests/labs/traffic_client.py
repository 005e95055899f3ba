"""One long-lived traffic.py process for all tests of a run.

Starting Python for each request takes longer than the request.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from msgspec import Struct, convert

PROGRAM = (sys.executable, "-S", "-E", str(Path(__file__).with_name("traffic.py")))

Target = tuple[str, str, int]
"""(TCP, UDP or SCTP; address; port)"""


class Answer(Struct, frozen=True):
    """Name of the server, the client address that it saw and the real one; or the error.

    Without address translation both addresses are equal, and nearly always both ports. Where two
    flows, one of them through a Service, would look the same from the other end, connection
    tracking chooses another port for the second (nf_nat_core.c, get_unique_tuple()).
    """

    server: str = ""
    client: tuple[str, int] = ("", 0)
    source: tuple[str, int] = ("", 0)
    error: str = ""


def ask(questions: Sequence[tuple[str | None, Sequence[Target]]]) -> list[list[Answer]]:
    """Ask all targets at the same time, each entry from its network namespace.

    Return the answers entry by entry.
    """
    client = _client()
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{json.dumps(questions)}\n")
    client.stdin.flush()
    return convert(json.loads(client.stdout.readline()), list[list[Answer]])


@cache
def _client() -> subprocess.Popen[str]:
    client = subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(_stop, client)
    return client


def _stop(client: subprocess.Popen[str]) -> None:
    client.kill()
    client.communicate()
