"""What a container's own process writes: a file in the run directory, and beside it that of the run before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from msgspec import Struct

MAX_BYTES = 16 * 1024 * 1024
"""Size of a log that is begun anew before it would be exceeded: logs lie in memory."""
TAIL_BYTES = 1024 * 1024
"""How much of a log is shown."""


Which = int | Literal["latest", "previous"]
"""Of which run: by its attempt, the one that runs or ran last, or the one before that."""


class Piece(Struct, frozen=True):
    """Lines of a log, and where those behind them begin."""

    lines: list[str]
    end: int


def read(path: Path, after: int = 0, *, is_going_on: bool = False) -> Piece:
    """What stands behind `after`, of much only the end. While the writer goes on its last line waits until it is whole.

    Raises FileNotFoundError when nothing has been written.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = max(after if after <= size else 0, size - TAIL_BYTES)  # a log that has been begun anew is read anew
        stream.seek(start)
        data = stream.read(size - start)
    if is_going_on:
        data = data[: data.rfind(b"\n") + 1]
    return Piece(data.decode(errors="replace").splitlines(), start + len(data))


def last_words(path: Path) -> str:
    """The last line with something in it."""
    try:
        lines = read(path).lines
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def previous(path: Path) -> Path:
    """Where the log of the run before is."""
    return path.with_name(f"{path.name}.previous")


def begin_run(path: Path) -> None:
    """Puts aside what an earlier run wrote."""
    if path.exists():
        path.replace(previous(path))


def remove(path: Path) -> None:
    """Success when it is gone already."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)
