"""The ping matrix on terminals of any width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.cli.probing.matrix_lines import legend_lines, matrix_lines
from kubenetlab.cli.terminal.theme import unpaint
from kubenetlab.observe.expect import Destination, ServiceTarget
from kubenetlab.observe.matrix import Cell, Matrix
from kubenetlab.observe.prober import Result
from kubenetlab.observe.targets.locations import Location

_MARGIN = len("12 default/web-0000 ")


def _matrix(pods: int, services: int) -> Matrix:
    """Return a matrix in which every destination answers every source but the last."""
    places = tuple(
        Location(
            "pod",
            "default",
            f"web-{index:04}",
            f"pod/{index}",
            f"/n{index}",
            (f"10.244.1.{index + 2}",),
        )
        for index in range(pods)
    )
    ports = tuple(
        ServiceTarget(
            "default",
            f"svc-{index}",
            f"10.96.0.{index + 1}",
            80,
            "TCP",
            ((places[0].address, 8080),),
        )
        for index in range(services)
    )
    destinations: tuple[Destination, ...] = (*places, *ports)
    cells = tuple(
        Cell(
            source,
            destination,
            "answer",
            (("", Result("silence" if source is places[-1] else "answer")),),
        )
        for source in places
        for destination in destinations
        if source is not destination
    )
    return Matrix(places, destinations, cells)


def _lines(matrix: Matrix, width: int | None) -> list[str]:
    return [unpaint(line) for line in matrix_lines(matrix, width)]


def _marks(lines: list[str], title: str) -> str:
    """Return the marks of a row, from all blocks."""
    return "".join(line.partition(title)[2].replace(" ", "") for line in lines if title in line)


def test_a_wide_terminal_has_spaces_between_marks() -> None:
    lines = _lines(_matrix(3, 2), 80)
    assert lines[:4] == [
        "                   1 2 3  4 5",
        "1 default/web-0000 - ● ●  ● ●",
        "2 default/web-0001 ● - ●  ● ●",
        "3 default/web-0002 ✗ ✗ -  ✗ ✗",
    ]
    assert lines == _lines(_matrix(3, 2), None)


def test_spaces_go_before_columns_do() -> None:
    lines = _lines(_matrix(3, 2), 28)
    assert lines[1] == "1 default/web-0000 -●● ●●"
    assert lines[4] == ""


def test_a_narrow_terminal_has_blocks_of_columns() -> None:
    """Each block repeats the names of the sources and numbers its own destinations."""
    lines = _lines(_matrix(12, 8), _MARGIN + 12)
    assert lines[:3] == [
        " " * _MARGIN + "         111",
        " " * _MARGIN + "123456789012",
        " 1 default/web-0000 -●●●●●●●●●●●",
    ]
    assert lines[15:18] == [
        " " * _MARGIN + "11111112",
        " " * _MARGIN + "34567890",
        " 1 default/web-0000 ●●●●●●●●",
    ]


@given(pods=st.integers(1, 70), services=st.integers(0, 20), width=st.none() | st.integers(1, 200))
def test_every_mark_is_drawn_and_no_line_is_too_wide(
    pods: int, services: int, width: int | None
) -> None:
    lines = _lines(_matrix(pods, services), width)
    for index in range(pods):
        title = f"default/web-{index:04} "
        expected = ("✗" if index == pods - 1 else "●") * (pods + services)
        assert _marks(lines, title) == expected[:index] + "-" + expected[index + 1 :]
    rows = [line for line in lines if "web-" in line]
    if width is not None:
        assert max(map(len, rows)) <= max(width, _MARGIN + 8)


@pytest.mark.parametrize("width", [None, 120, 80, 60, 10])
def test_the_legend_breaks_between_its_entries(width: int | None) -> None:
    lines = [unpaint(line) for line in legend_lines(width)]
    assert "  ".join(lines) == (
        "● answers  × refuses  · no answer  "
        "! answers, against the promise  ✗ does not, against the promise"
    )
    assert len(lines) == {None: 1, 120: 1, 80: 2, 60: 3, 10: 5}[width]
