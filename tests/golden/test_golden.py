"""Golden results: `scripts/golden` writes them, and their diff is reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.outputs import CASES, outputs


@pytest.mark.parametrize("case", sorted(CASES.iterdir()), ids=lambda case: case.name)
def test_outputs_equal_the_golden_files(case: Path) -> None:
    """Every object, every rule and every report is compared, and there are no other files."""
    golden_files = {
        path.name: path.read_text() for path in case.iterdir() if path.name != "input.yaml"
    }
    assert golden_files == outputs(case)
