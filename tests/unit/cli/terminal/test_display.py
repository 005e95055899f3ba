"""Selection of plain text, or of a drawing with or without colours, for a stream."""

from __future__ import annotations

import io

import pytest

from kubenetlab.cli.terminal import display
from kubenetlab.cli.terminal.display import PLAIN, Display


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm"}, Display(True, True, True, 100)),
        ({"TERM": "xterm", "NO_COLOR": "1"}, Display(True, False, True, 100)),
        ({"TERM": "xterm", "NO_COLOR": ""}, Display(True, True, True, 100)),
        ({"TERM": "dumb"}, PLAIN),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, Display(True, True, False, None)),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, Display(True, False, True, 100)),
    ],
)
def test_a_terminal_is_drawn_unless_it_is_dumb(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Display
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert display.display(_Terminal(), environment) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm"}, PLAIN),
        ({"TERM": "xterm", "COLUMNS": "80"}, PLAIN),
        ({"FORCE_COLOR": "1"}, Display(True, True, False, None)),
        ({"FORCE_COLOR": "1", "COLUMNS": "80"}, Display(True, True, False, 80)),
        ({"FORCE_COLOR": "1", "COLUMNS": "wide"}, Display(True, True, False, None)),
        ({"FORCE_COLOR": ""}, PLAIN),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, PLAIN),
    ],
)
def test_a_pipe_is_plain_unless_colours_are_forced(
    environment: dict[str, str], expected: Display
) -> None:
    """Without COLUMNS, the lines of a pipe have any length."""
    assert display.display(io.StringIO(), environment) == expected
