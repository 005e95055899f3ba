"""What a container's own process writes: a file in the run directory, and beside it that of the run before."""

from __future__ import annotations

import os
import struct
import time
from bisect import bisect_right
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

MAX_BYTES = 16 * 1024 * 1024
"""Size of a log that is begun anew before it would be exceeded: logs lie in memory."""
MAX_MESSAGE: Final = 2048
"""Characters of a log that the status of a container and its events repeat: they are kept in the store.

Source: k8s.io/kubernetes pkg/kubelet/container (MaxContainerTerminationMessageLogLength), in bytes there.
"""
TAIL_BYTES = 1024 * 1024
"""How much of a log is shown."""


Which = int | Literal["latest", "previous"]
"""Of which run: by its attempt, the one that runs or ran last, or the one before that."""


MARK: Final = struct.Struct("<dQ")
"""When something was written, in seconds since 1970, and where in the log it begins; a file beside the log has one after another."""
MARK_EVERY_S: Final = 0.1
_PREVIOUS: Final = ".previous"
MAX_MARKS_BYTES: Final = 1024 * 1024


class LogPart(Struct, frozen=True):
    """Lines of a log, and where those behind them begin."""

    lines: list[str]
    end: int
    times: list[float] | None = None
    """When each line was written, in seconds since 1970, to about MARK_EVERY_S; None where the lines begin with it, or it is not known."""

    def since(self, moment: float) -> LogPart:
        """Return the lines that were written at a moment or later, in seconds since 1970."""
        times = self.times if self.times is not None else [_time_in(line) for line in self.lines]
        return LogPart(
            [line for line, at in zip(self.lines, times, strict=True) if at >= moment], self.end
        )


def read(path: Path, after: int = 0, *, is_going_on: bool = False) -> LogPart:
    """What stands behind `after`, of much only the end. While the writer goes on its last line waits until it is whole.

    Raises FileNotFoundError when nothing has been written.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = max(
            after if after <= size else 0, size - TAIL_BYTES
        )  # a log that has been begun anew is read anew
        stream.seek(start)
        data = stream.read(size - start)
    if is_going_on:
        data = data[: data.rfind(b"\n") + 1]
    lines = data.decode(errors="replace").splitlines()
    return LogPart(lines, start + len(data), _times(path, start, data, len(lines)))


def _times(path: Path, start: int, data: bytes, count: int) -> list[float] | None:
    """Return when each line of a piece was written, or None without marks; where lines cannot be told apart, the last mark's time."""
    try:
        marks = list(MARK.iter_unpack(_whole(marks_of(path).read_bytes())))
    except FileNotFoundError:
        marks = []
    if not marks:
        return None
    offsets = [offset for _, offset in marks]
    beginnings, at = [], start
    for line in data.splitlines(keepends=True):
        beginnings.append(at)
        at += len(line)
    if len(beginnings) != count:  # line ends that only text has
        return [marks[-1][0]] * count
    return [marks[max(0, bisect_right(offsets, beginning) - 1)][0] for beginning in beginnings]


def _whole(marks: bytes) -> bytes:
    return marks[: len(marks) - len(marks) % MARK.size]


def _time_in(line: str) -> float:
    """Return the time at the beginning of a built-in program's line."""
    try:
        return datetime.fromisoformat(line.partition(" ")[0]).timestamp()
    except ValueError:
        return time.time()


def marks_of(path: Path) -> Path:
    """Return the file that has the times of a log. No name is longer than that of a former run's log: some are as long as can be."""
    latest, dot, _ = path.name.rpartition(_PREVIOUS)
    return path.with_name(f"{latest}.oldtimes" if dot else f"{path.name}.times")


def mark(log: str, moment: float, offset: int) -> None:
    """Note when what begins at an offset of a log was written. Raises OSError."""
    path = marks_of(Path(log))
    flags = (
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_TRUNC if offset == 0 else 0)
    )
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.fstat(descriptor).st_size >= MAX_MARKS_BYTES:
            os.ftruncate(descriptor, 0)
        os.write(descriptor, MARK.pack(moment, offset))
    finally:
        os.close(descriptor)


def last_words(path: Path) -> str:
    """Return the last line that is not blank, at most MAX_MESSAGE characters of it; empty where there is none."""
    try:
        lines = read(path).lines
    except OSError:
        return ""
    return next((line.strip()[:MAX_MESSAGE] for line in reversed(lines) if line.strip()), "")


def previous(path: Path) -> Path:
    """Where the log of the run before is."""
    return path.with_name(f"{path.name}{_PREVIOUS}")


def begin_run(path: Path) -> None:
    """Puts aside what an earlier run wrote."""
    if path.exists():
        path.replace(previous(path))
    if marks_of(path).exists():
        marks_of(path).replace(marks_of(previous(path)))


def remove(path: Path) -> None:
    """Success when it is gone already."""
    for log in (path, previous(path)):
        log.unlink(missing_ok=True)
        marks_of(log).unlink(missing_ok=True)
