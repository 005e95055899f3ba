"""Output on a terminal: progress, colours, an interactive shell, narrow tables."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import COMMAND, Lab, run
from tests.labs.terminal import on_terminal
from tests.patience import patiently

CODES = re.compile(r"\x1b\[[0-9;]*m")
STEADY = (("explain", "bridge"), ("break", "--list"), ("diff",), ("modes", "-o", "wide"))
"""Commands whose output does not depend on the time."""


def drawn_by(*words: str, width: int = 100, **variables: str) -> tuple[int, str]:
    """Return the exit status and everything drawn by a kubenetlab command on a terminal.

    variables: further variables of its environment.
    """

    def execute() -> None:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(width)}
        for name in ("NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ |= variables
        os.execv(COMMAND[0], [*COMMAND, *words])

    return on_terminal(execute, width=width)


def piped(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a kubenetlab command whose output goes to pipes."""
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [*COMMAND, *words],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=patiently(60),
    )


@pytest.fixture(scope="module")
def drawn_up() -> Iterator[tuple[Lab, str]]:
    """Yield a lab that `up` has created on a terminal, and everything that `up` drew."""
    for lab in new_lab():
        status, drawn = drawn_by("up", "--lab", lab.name, "--nodes", "4")
        assert status == 0
        yield lab, drawn


@pytest.fixture
def running(drawn_up: tuple[Lab, str]) -> Lab:
    return drawn_up[0]


def test_up_draws_its_progress_on_a_terminal(drawn_up: tuple[Lab, str]) -> None:
    """One line is redrawn, and erased at the end.

    Terminals get colours, and pipes plain text.
    """
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
    """The prompt names the place, and `exit` returns its status."""
    line = [*COMMAND, "shell", "client", "--lab", running.name]
    status, _ = on_terminal(
        lambda: os.execv(line[0], line),
        ("[client ", "echo inside-$(hostname)\n"),
        ("inside-client", "exit 3\n"),
    )
    assert status == 3


def test_the_list_of_labs_fits_on_a_terminal(running: Lab) -> None:
    """A narrow terminal has fewer columns and names the hidden ones.

    -o wide and pipes have all columns.
    """
    _, drawn = drawn_by("list", width=72)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn.splitlines()]
    assert max(map(len, lines[:2])) <= 72
    assert "SERVICES" not in lines[0]
    assert any(line.startswith("hidden columns: ") and "SERVICES" in line for line in lines)
    assert running.name in drawn
    for output in (drawn_by("list", "-o", "wide", width=72)[1], run("list").out):
        assert "SERVICES" in output
        assert "hidden columns" not in output


@pytest.mark.parametrize("words", STEADY, ids=" ".join)
def test_a_dumb_terminal_gets_the_text_of_a_pipe(running: Lab, words: tuple[str, ...]) -> None:
    plain = piped(*words, KUBENETLAB_LAB=running.name)
    status, drawn = drawn_by(*words, width=40, TERM="dumb", KUBENETLAB_LAB=running.name)
    assert (status, drawn.replace("\r\n", "\n")) == (0, plain.stdout + plain.stderr)


@pytest.mark.parametrize("words", STEADY, ids=" ".join)
def test_forced_colours_change_no_text(running: Lab, words: tuple[str, ...]) -> None:
    """In a pipe, colours are all that FORCE_COLOR adds; NO_COLOR takes them away again."""
    plain = piped(*words, KUBENETLAB_LAB=running.name).stdout
    coloured = piped(*words, KUBENETLAB_LAB=running.name, FORCE_COLOR="1").stdout
    assert CODES.search(plain) is None
    assert CODES.search(coloured) is not None
    lines = [" ".join(line.split()) for line in plain.splitlines()]
    assert [" ".join(CODES.sub("", line).split()) for line in coloured.splitlines()] == lines
    both = piped(*words, KUBENETLAB_LAB=running.name, FORCE_COLOR="1", NO_COLOR="1").stdout
    assert both == plain


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal(running: Lab, width: int) -> None:
    """Tables, pages, the matrix: with colours, and with NO_COLOR the same text without any."""
    for words in (
        ("get", "pods", "-A", "-o", "wide", "--show-labels"),
        ("get", "events", "-A"),
        ("describe", "pod", "client"),
        ("inspect", "svc:web"),
        ("ping",),
        ("explain", "bridge"),
    ):
        _, drawn = drawn_by(*words, width=width, KUBENETLAB_LAB=running.name)
        lines = [CODES.sub("", line) for line in drawn.splitlines()]
        shown = [line for line in lines if not line.startswith("next: ")]
        assert CODES.search(drawn) is not None
        assert [line for line in shown if len(line) > width] == []
        _, uncoloured = drawn_by(*words, width=width, KUBENETLAB_LAB=running.name, NO_COLOR="1")
        assert "\x1b[" not in uncoloured
