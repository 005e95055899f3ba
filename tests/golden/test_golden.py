"""Whole results, written down: what `scripts/golden` writes is read by a person before it is
committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.outputs import CASES, outputs


@pytest.mark.parametrize("case", sorted(CASES.iterdir()), ids=lambda case: case.name)
def test_results_are_as_written_down(case: Path) -> None:
    """Every object, every rule, every word of a report; and no file more."""
    written = {path.name: path.read_text() for path in case.iterdir() if path.name != "input.yaml"}
    assert written == outputs(case)
