"""Logs of containers that are processes: files in the run directory, one per run for two runs.

Beside each log is a file of time marks, which tell when its lines were written.
"""

from __future__ import annotations

import os
import struct
import time
from bisect import bisect_right
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of a log, after which it is emptied: the run directory is in memory."""
MAX_MESSAGE: Final = 2048
"""Maximum number of characters of a log that container statuses and events repeat in the store.

Source: MaxContainerTerminationMessageLogLength in k8s.io/kubernetes pkg/kubelet/container, where it
is in bytes.
"""
TAIL_BYTES = 1024 * 1024
"""Maximum number of bytes of a log that are shown, from its end."""


MARK: Final = struct.Struct("<dQ")
"""Time mark: time of a write in seconds since 1970, and its offset in the log."""
MARK_EVERY_S: Final = 0.1
"""Minimum time between two marks, in seconds."""
_PREVIOUS: Final = ".previous"
MAX_MARKS_BYTES: Final = 1024 * 1024


class LogPart(Struct, frozen=True):
    """Part of a log, as one call reads it."""

    lines: list[str]
    end: int
    """Position at which the next part begins: in bytes for a file, in lines for a program's log."""
    times: list[float] | None = None
    """Time at which each line was written, in seconds since 1970, to about MARK_EVERY_S.

    None if the lines themselves begin with their time, or if it is unknown.
    """

    def since(self, moment: float) -> LogPart:
        """Return the lines that were written at `moment` or later, in seconds since 1970."""
        times = self.times if self.times is not None else [_time_in(line) for line in self.lines]
        return LogPart(
            [line for line, at in zip(self.lines, times, strict=True) if at >= moment], self.end
        )


def read(path: Path, after: int = 0, *, is_going_on: bool = False) -> LogPart:
    """Return the part of a log from offset `after` on, at most its last TAIL_BYTES.

    is_going_on: True while the process runs: an incomplete last line is then left out.
    Raises FileNotFoundError if there is no log.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        # A log that is shorter than `after` was emptied, and is read from its beginning.
        start = max(after if after <= size else 0, size - TAIL_BYTES)
        stream.seek(start)
        data = stream.read(size - start)
    if is_going_on:
        data = data[: data.rfind(b"\n") + 1]
    lines = data.decode(errors="replace").splitlines()
    return LogPart(lines, start + len(data), _times(path, start, data, len(lines)))


def _times(path: Path, start: int, data: bytes, count: int) -> list[float] | None:
    """Return the time of each line of a part of a log, or None if the log has no marks.

    If the text has other line ends than the bytes, all lines get the time of the last mark.

    start: offset of the part in the log.
    count: number of lines of its text.
    """
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
    if len(beginnings) != count:  # str.splitlines knows more line ends than bytes.splitlines
        return [marks[-1][0]] * count
    return [marks[max(0, bisect_right(offsets, beginning) - 1)][0] for beginning in beginnings]


def _whole(marks: bytes) -> bytes:
    """Return marks without an incomplete one at their end."""
    return marks[: len(marks) - len(marks) % MARK.size]


def _time_in(line: str) -> float:
    """Return the time at the beginning of a built-in program's line; the current time if none."""
    try:
        return datetime.fromisoformat(line.partition(" ")[0]).timestamp()
    except ValueError:
        return time.time()


def marks_of(path: Path) -> Path:
    """Return the path of the time marks of a log.

    No such name is longer than the name of a previous run's log, which may have the maximum length.
    """
    latest, dot, _ = path.name.rpartition(_PREVIOUS)
    return path.with_name(f"{latest}.oldtimes" if dot else f"{path.name}.times")


def mark(log: str, moment: float, offset: int) -> None:
    """Append a mark: the text at `offset` of a log was written at `moment`. Raises OSError."""
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


def last_line(path: Path) -> str:
    """Return the last non-blank line of a log, at most MAX_MESSAGE characters; "" if none."""
    try:
        lines = read(path).lines
    except OSError:
        return ""
    return next((line.strip()[:MAX_MESSAGE] for line in reversed(lines) if line.strip()), "")


def previous(path: Path) -> Path:
    """Return the path of the previous run's log."""
    return path.with_name(f"{path.name}{_PREVIOUS}")


def begin_run(path: Path) -> None:
    """Rename the log of the latest run and its marks to those of the previous run."""
    if path.exists():
        path.replace(previous(path))
    if marks_of(path).exists():
        marks_of(path).replace(marks_of(previous(path)))


def remove(path: Path) -> None:
    """Remove the logs of both runs, and their marks; missing files are ignored."""
    for log in (path, previous(path)):
        log.unlink(missing_ok=True)
        marks_of(log).unlink(missing_ok=True)
