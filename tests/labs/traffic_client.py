"""One long-lived traffic.py for all tests of a run: to start a Python for each question takes
longer than the question.
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
"""(TCP, UDP or SCTP, address, port)"""


class Answer(Struct, frozen=True):
    """Who answered, which client it saw, and from where the question was sent; or what went wrong.

    Where no rule translates anything the address seen is the source's, and the port nearly always.
    Where two flows, one of them through a Service, would look the same from the other end,
    connection tracking takes another port for the second (nf_nat_core.c, get_unique_tuple()).
    """

    who: str = ""
    seen: tuple[str, int] = ("", 0)
    source: tuple[str, int] = ("", 0)
    error: str = ""


def ask(questions: Sequence[tuple[str | None, Sequence[Target]]]) -> list[list[Answer]]:
    """Ask all targets at the same time, each entry from its network namespace; return the answers
    entry by entry.
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
    atexit.register(_end, client)
    return client


def _end(client: subprocess.Popen[str]) -> None:
    client.kill()
    client.communicate()
