"""`scripts/bench` runs.

Its figures are meaningful only on an idle machine, so they are not tested.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.makers import TOOLS
from bench.peers import FLOOR, OURS
from tests.patience import patiently

ROOT = Path(__file__).parents[2]


def tables(*words: str) -> list[list[str]]:
    """Return the rows of all tables that a part prints after one round, without headings."""
    command = [sys.executable, "-m", "bench", *words, "--rounds", "1"]
    completed = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=patiently(60)
    )
    assert completed.returncode == 0, completed.stderr
    rows = [
        re.split(r" \| ", line.strip("| "))
        for line in completed.stdout.splitlines()
        if line.startswith("| ")
    ]
    return [row for row in rows if row[0] != "made by" and row[0] != "way"]


def test_every_tool_that_creates_pods_is_in_the_table() -> None:
    """Tools that are not installed are marked as such."""
    rows = tables("peers", "--pods", "3")
    assert [row[0] for row in rows] == [OURS, FLOOR, *TOOLS]
    assert [row for row in rows if not re.fullmatch(r"\d+\.\d\d|not installed", row[1])] == []


def test_a_lab_is_measured_beside_a_manual_setup() -> None:
    """Every path leads to a server that answers, in both."""
    rows = tables("datapath")
    if not rows:
        pytest.skip("gcc is not installed: apt-get install gcc")
    assert len(rows) == 4
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
