"""Logs of containers' processes: what is new in them, and what an earlier run wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubenetlab.lab import rundir
from kubenetlab.lab.runtime import container_logs
from kubenetlab.lab.runtime.container_logs import (
    LogPart,
    begin_run,
    last_words,
    previous,
    read,
    remove,
)
from kubenetlab.names import MAX_FILE_NAME


def test_a_log_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    """A line that is still being written waits until it is whole, or until nobody writes any more."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    first = read(path, is_going_on=True)
    assert first == LogPart(["one", "two"], 8)
    with path.open("a") as file:
        file.write("ee\nfour")
    assert read(path, first.end, is_going_on=True) == LogPart(["three"], 14)
    assert read(path, 14) == LogPart(["four"], 18)
    assert read(path, 18) == LogPart([], 18)


def test_a_log_that_was_begun_anew_is_read_anew(tmp_path: Path) -> None:
    """It is shorter than what was read of it."""
    path = tmp_path / "log"
    path.write_text("new\n")
    assert read(path, 1000) == LogPart(["new"], 4)


def test_of_a_large_log_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as anybody looks at."""
    monkeypatch.setattr(container_logs, "TAIL_BYTES", 8)
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n")
    assert read(path).lines == ["o", "three"]


def test_each_run_has_a_log(tmp_path: Path) -> None:
    """The present one and the one before it; with the container both go."""
    path = tmp_path / "log"
    begin_run(path)  # of nothing
    for text in ("first\n", "second\n\n", "third\n \n"):
        begin_run(path)
        path.write_text(text)
    assert (read(path).lines[0], read(previous(path)).lines[0]) == ("third", "second")
    assert last_words(path) == "third"
    remove(path)
    remove(path)
    assert list(tmp_path.iterdir()) == []
    assert last_words(path) == ""


def test_last_words_are_bounded(tmp_path: Path) -> None:
    """They go into the store, with each event about the container's end; a line of a log may have megabytes."""
    path = tmp_path / "c.log"
    path.write_text("x" * 900_000 + "\n\n")
    assert last_words(path) == "x" * 2048


def test_lines_since_a_moment(tmp_path: Path) -> None:
    """A line has the time of the last mark at or before its beginning; one in two pieces that of the first."""
    log = tmp_path / "c.log"
    for moment, text in ((100.0, b"one\ntwo\nhal"), (200.0, b"f\nthree\n"), (300.0, b"four\n")):
        with log.open("ab") as stream:
            container_logs.mark(str(log), moment, stream.tell())
            stream.write(text)
    piece = container_logs.read(log)
    assert piece.times == [100.0, 100.0, 100.0, 200.0, 300.0]
    assert piece.since(150.0).lines == ["three", "four"]
    assert piece.since(301.0).lines == []
    assert container_logs.read(log, after=len(b"one\n")).since(0).lines == [
        "two",
        "half",
        "three",
        "four",
    ]
    container_logs.begin_run(log)
    assert container_logs.read(container_logs.previous(log)).since(300.0).lines == ["four"]
    container_logs.mark(str(log), 400.0, 0)
    log.write_bytes(b"new\n")
    assert container_logs.read(log).times == [400.0]
    container_logs.remove(log)
    assert list(tmp_path.iterdir()) == []


def test_lines_that_begin_with_their_time() -> None:
    """Those of built-in programs; one without a time is kept."""
    piece = container_logs.LogPart(
        ["2026-01-01T00:00:00Z one", "more of it", "2026-01-02T00:00:00Z two"], 3
    )
    assert piece.since(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()).lines == [
        "more of it",
        "2026-01-02T00:00:00Z two",
    ]


def test_no_name_beside_a_log_is_longer_than_that_of_the_run_before() -> None:
    """Names of namespaces and pods can make a log's name as long as a file's may be."""
    log = Path(rundir.container_log("pod/" + "n" * 300, "c" * 63))
    files = (
        log,
        previous(log),
        container_logs.marks_of(log),
        container_logs.marks_of(previous(log)),
    )
    assert max(len(file.name) for file in files) == MAX_FILE_NAME
    assert container_logs.marks_of(log) != container_logs.marks_of(previous(log))
