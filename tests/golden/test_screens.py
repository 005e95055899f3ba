"""Screens, written down: plain text, two widths of terminals, and the colours."""

from __future__ import annotations

import pytest

from kubenetlab.cli.terminal.layout import cell_width
from tests.golden.screens import DISPLAYS, SCREEN_FUNCTIONS, SCREENS, capture, outputs


@pytest.mark.parametrize("name", SCREEN_FUNCTIONS)
def test_a_screen_is_as_written_down(name: str) -> None:
    """Read the difference before you commit it: scripts/golden writes the files."""
    written = {path.name: path.read_text() for path in (SCREENS / name).iterdir()}
    assert written == outputs(SCREEN_FUNCTIONS[name])


def test_every_folder_is_a_screen() -> None:
    assert {path.name for path in SCREENS.iterdir()} == set(SCREEN_FUNCTIONS)


@pytest.mark.parametrize("name", SCREEN_FUNCTIONS)
@pytest.mark.parametrize("display", ["80.txt", "140.txt"])
def test_no_line_is_wider_than_the_terminal(name: str, display: str) -> None:
    """And no control sequence of a manifest reaches the terminal."""
    drawn = capture(SCREEN_FUNCTIONS[name], DISPLAYS[display])
    assert "\x1b" not in drawn
    width = DISPLAYS[display].width
    assert width is not None
    hints = ("next: ",)  # a command to copy stays on one line
    assert [
        line
        for line in drawn.splitlines()
        if cell_width(line) > width and not line.startswith(hints)
    ] == []
