"""Tables for people on narrow terminals."""

from __future__ import annotations

import pytest
from rich.console import Console

from kubenetlab.cli.tables import drawn, fitting

HEADER = ("LAB", "OWNER", "PODS", "MEMORY")
ROWS = [("quickstart", "root", "15/15 ready", "74 MiB"), ("x", "\x1b[31mnobody\x1b[0m", "?", "1 MiB")]


@pytest.mark.parametrize(("width", "columns"), [(80, 4), (45, 4), (44, 3), (36, 3), (35, 2), (1, 2)])
def test_columns_are_left_out_before_cells_are_cut(width: int, columns: int) -> None:
    """The expendable ones in their order, no other; what is left is drawn whole."""
    header, rows = fitting(HEADER, ROWS, width, ("OWNER", "MEMORY"))
    assert header == {4: list(HEADER), 3: ["LAB", "PODS", "MEMORY"], 2: ["LAB", "PODS"]}[columns]
    console = Console(width=max(width, 30))
    with console.capture() as capture:
        console.print(drawn(header, rows))
    assert all(cell in capture.get() for cell in rows[0])
