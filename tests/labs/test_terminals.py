"""Commands that draw on a terminal: progress, colours, an interactive shell, narrow tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import COMMAND, Lab, run
from tests.labs.terminal import on_terminal


def drawn_by(*words: str, width: int = 100) -> tuple[int, str]:
    """(exit status, everything drawn) of a kubenetlab command that has a terminal."""

    def execute() -> None:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(width)}
        os.environ.pop("NO_COLOR", None)
        os.execv(COMMAND[0], [*COMMAND, *words])

    return on_terminal(execute, width=width)


@pytest.fixture(scope="module")
def drawn_up() -> Iterator[tuple[Lab, str]]:
    """A lab that `up` has made on a terminal, and everything that `up` drew."""
    for lab in new_lab():
        status, drawn = drawn_by("up", "--lab", lab.name, "--nodes", "4")
        assert status == 0
        yield lab, drawn


@pytest.fixture
def running(drawn_up: tuple[Lab, str]) -> Lab:
    return drawn_up[0]


def test_up_draws_its_progress_on_a_terminal(drawn_up: tuple[Lab, str]) -> None:
    """One line, over and over, gone in the end; colours; elsewhere plain lines without any codes."""
    lab, drawn = drawn_up
    assert f"building {lab.name}: " in drawn
    assert "\r\x1b[K" in drawn
    last = [line.rpartition("\r\x1b[K")[2] for line in drawn.split("\n") if line.strip()]
    assert not any("building" in line for line in last)
    assert "\x1b[32m✓\x1b[0m built" in drawn
    plain = lab.run("ping").out
    assert "\x1b" not in plain
    assert "●" in plain


def test_a_shell_on_a_terminal_is_interactive(running: Lab) -> None:
    """A prompt that says where one is; Ctrl-D leaves."""
    line = [*COMMAND, "shell", "client", "--lab", running.name]
    status, _ = on_terminal(
        lambda: os.execv(line[0], line),
        ("[client ", "echo inside-$(hostname)\n"),
        ("inside-client", "exit 3\n"),
    )
    assert status == 3


def test_the_list_of_labs_fits_on_a_terminal(running: Lab) -> None:
    """A narrow one has fewer columns, and says which are left out; -o wide and a pipe have all."""
    _, drawn = drawn_by("list", width=72)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn.splitlines()]
    assert max(map(len, lines[:2])) <= 72
    assert "SERVICES" not in lines[0]
    assert any(line.startswith("hidden columns: ") and "SERVICES" in line for line in lines)
    assert running.name in drawn
    for whole in (drawn_by("list", "-o", "wide", width=72)[1], run("list").out):
        assert "SERVICES" in whole
        assert "hidden columns" not in whole
