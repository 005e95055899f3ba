"""docs/security.md claims what tests show: each test that it names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(test_\w+)(?:::(test_\w+))?`")


def missing(text: str) -> Iterator[str]:
    """Yield the named tests that there are none of."""
    for module, function in NAMED.findall(text):
        sources = [path.read_text() for path in ROOT.glob(f"tests/**/{module}.py")]
        if not any(not function or f"\ndef {function}(" in source for source in sources):
            yield f"{module}::{function}"


def test_every_test_that_is_named_exists() -> None:
    """As a module, or as a function of one."""
    text = PAGE.read_text()
    assert len(NAMED.findall(text)) > 20
    assert list(missing(text)) == []
    assert list(missing("`test_inside::test_nothing` and `test_nowhere`")) == [
        "test_inside::test_nothing",
        "test_nowhere::",
    ]


def test_every_table_row_that_denies_something_names_a_test() -> None:
    """What is only possible needs none."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[1] and cells[2] != "test":
            assert NAMED.search(cells[2]), line
