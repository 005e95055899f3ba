"""Tables on narrow terminals."""

from __future__ import annotations

import pytest
from rich.console import Console

from kubenetlab.cli.terminal import printing
from kubenetlab.cli.terminal.tables import fit_columns, rich_table

HEADER = ("LAB", "OWNER", "PODS", "MEMORY")
ROWS = [
    ("quickstart", "root", "15/15 ready", "74 MiB"),
    ("x", "\x1b[31mnobody\x1b[0m", "?", "1 MiB"),
]


@pytest.mark.parametrize(
    ("width", "columns"), [(80, 4), (45, 4), (44, 3), (36, 3), (35, 2), (1, 2)]
)
def test_columns_are_left_out_before_cells_are_cut(width: int, columns: int) -> None:
    """Only optional columns are dropped, in their order; the others are drawn whole."""
    header, rows = fit_columns(HEADER, ROWS, width, ("OWNER", "MEMORY"))
    assert header == {4: list(HEADER), 3: ["LAB", "PODS", "MEMORY"], 2: ["LAB", "PODS"]}[columns]
    console = Console(width=max(width, 30))
    with console.capture() as capture:
        console.print(rich_table(header, rows))
    assert all(cell in capture.get() for cell in rows[0])


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, "✓ veth  links of pods and nodes, as ports of a br_netfilter-bridge"),
        (80, "✓ veth  links of pods and nodes, as ports of a br_netfilter-bridge"),
        (40, "✓ veth  links of pods and nodes, as\n        ports of a br_netfilter-bridge"),
        (27, "✓ veth  links of pods and nodes, as ports of a br_netfilter-bridge"),
    ],
)
def test_a_wrapped_text_has_a_hanging_indent(
    monkeypatch: pytest.MonkeyPatch, width: int | None, expected: str
) -> None:
    """Words are not split; a text on a very narrow terminal is not wrapped."""
    monkeypatch.setattr(printing, "terminal_width", lambda: width)
    assert (
        printing.hanging_indent(
            "✓ veth  ", "links of pods and nodes, as ports of a br_netfilter-bridge", 8
        )
        == expected
    )
