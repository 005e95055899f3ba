"""Logs of containers' processes: what is new in them, and what an earlier run wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubenetlab.lab import container_logs
from kubenetlab.lab.container_logs import Piece, begin_run, last_words, previous, read, remove


def test_a_log_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    """A line that is still being written waits until it is whole, or until nobody writes any more."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    first = read(path, is_going_on=True)
    assert first == Piece(["one", "two"], 8)
    with path.open("a") as file:
        file.write("ee\nfour")
    assert read(path, first.end, is_going_on=True) == Piece(["three"], 14)
    assert read(path, 14) == Piece(["four"], 18)
    assert read(path, 18) == Piece([], 18)


def test_a_log_that_was_begun_anew_is_read_anew(tmp_path: Path) -> None:
    """It is shorter than what was read of it."""
    path = tmp_path / "log"
    path.write_text("new\n")
    assert read(path, 1000) == Piece(["new"], 4)


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
