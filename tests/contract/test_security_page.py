"""Every test that docs/security.md names as evidence exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(test_\w+)(?:::(test_\w+))?`")


def missing(text: str) -> Iterator[str]:
    """Yield the tests that a page names and that do not exist."""
    for module, function in NAMED.findall(text):
        sources = [path.read_text() for path in ROOT.glob(f"tests/**/{module}.py")]
        if not any(not function or f"\ndef {function}(" in source for source in sources):
            yield f"{module}::{function}"


def test_every_named_test_exists() -> None:
    """A name is that of a test module, or of a module and a function."""
    text = PAGE.read_text()
    assert len(NAMED.findall(text)) > 20
    assert list(missing(text)) == []
    assert list(missing("`test_exec_isolation::test_nothing` and `test_nowhere`")) == [
        "test_exec_isolation::test_nothing",
        "test_nowhere::",
    ]


def test_every_table_row_about_a_restriction_names_a_test() -> None:
    """Rows that only name a possibility need no test."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[1] and cells[2] != "test":
            assert NAMED.search(cells[2]), line
