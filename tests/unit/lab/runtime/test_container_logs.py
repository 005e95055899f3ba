"""Logs of container processes: reading on from a position, previous runs, and time marks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubenetlab.lab import rundir
from kubenetlab.lab.runtime import container_logs
from kubenetlab.lab.runtime.container_logs import (
    LogPart,
    begin_run,
    last_line,
    previous,
    read,
    remove,
)
from kubenetlab.names import MAX_FILE_NAME


def test_a_log_is_read_on_from_a_position(tmp_path: Path) -> None:
    """An incomplete last line is left out as long as the process runs."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    first = read(path, is_going_on=True)
    assert first == LogPart(["one", "two"], 8)
    with path.open("a") as file:
        file.write("ee\nfour")
    assert read(path, first.end, is_going_on=True) == LogPart(["three"], 14)
    assert read(path, 14) == LogPart(["four"], 18)
    assert read(path, 18) == LogPart([], 18)


def test_an_emptied_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    """It is shorter than the position to read from."""
    path = tmp_path / "log"
    path.write_text("new\n")
    assert read(path, 1000) == LogPart(["new"], 4)


def test_only_the_end_of_a_large_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most TAIL_BYTES are read."""
    monkeypatch.setattr(container_logs, "TAIL_BYTES", 8)
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n")
    assert read(path).lines == ["o", "three"]


def test_two_runs_have_logs(tmp_path: Path) -> None:
    """The logs of the latest and the previous run are kept, and removed together."""
    path = tmp_path / "log"
    begin_run(path)  # without a previous run
    for text in ("first\n", "second\n\n", "third\n \n"):
        begin_run(path)
        path.write_text(text)
    assert (read(path).lines[0], read(previous(path)).lines[0]) == ("third", "second")
    assert last_line(path) == "third"
    remove(path)
    remove(path)
    assert list(tmp_path.iterdir()) == []
    assert last_line(path) == ""


def test_the_last_line_is_truncated(tmp_path: Path) -> None:
    """Events about the container's exit store it, and a line of a log may have megabytes."""
    path = tmp_path / "c.log"
    path.write_text("x" * 900_000 + "\n\n")
    assert last_line(path) == "x" * 2048


def test_lines_are_selected_by_time(tmp_path: Path) -> None:
    """A line has the time of the last mark at or before its beginning."""
    log = tmp_path / "c.log"
    for moment, text in ((100.0, b"one\ntwo\nhal"), (200.0, b"f\nthree\n"), (300.0, b"four\n")):
        with log.open("ab") as stream:
            container_logs.mark(str(log), moment, stream.tell())
            stream.write(text)
    part = container_logs.read(log)
    assert part.times == [100.0, 100.0, 100.0, 200.0, 300.0]
    assert part.since(150.0).lines == ["three", "four"]
    assert part.since(301.0).lines == []
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


def test_lines_with_a_time_stamp_are_selected_by_it() -> None:
    """Lines of built-in programs begin with their time; a line without a time is kept."""
    part = container_logs.LogPart(
        ["2026-01-01T00:00:00Z one", "more of it", "2026-01-02T00:00:00Z two"], 3
    )
    assert part.since(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()).lines == [
        "more of it",
        "2026-01-02T00:00:00Z two",
    ]


def test_names_of_log_files_fit_the_maximum_length() -> None:
    """The names of namespaces and pods can make the name of a log that long."""
    log = Path(rundir.container_log("pod/" + "n" * 300, "c" * 63))
    files = (
        log,
        previous(log),
        container_logs.marks_of(log),
        container_logs.marks_of(previous(log)),
    )
    assert max(len(file.name) for file in files) == MAX_FILE_NAME
    assert container_logs.marks_of(log) != container_logs.marks_of(previous(log))
