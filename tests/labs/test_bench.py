"""`scripts/bench` says how long things take; here only that it can: its figures are for a machine
that does nothing else.
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
    """The rows of all tables that a part prints, after one round; heads and lines are left out."""
    command = [sys.executable, "-m", "bench", *words, "--rounds", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=patiently(60)
    )
    assert done.returncode == 0, done.stderr
    rows = [
        re.split(r" \| ", line.strip("| "))
        for line in done.stdout.splitlines()
        if line.startswith("| ")
    ]
    return [row for row in rows if row[0] != "made by" and row[0] != "way"]


def test_whoever_makes_pods_is_in_the_table() -> None:
    """Those who are not installed are named as such."""
    rows = tables("peers", "--pods", "3")
    assert [row[0] for row in rows] == [OURS, FLOOR, *TOOLS]
    assert [row for row in rows if not re.fullmatch(r"\d+\.\d\d|not installed", row[1])] == []


def test_a_lab_and_the_same_by_hand_are_measured_side_by_side() -> None:
    """Every way leads to somebody who answers, in both."""
    rows = tables("datapath")
    if not rows:
        pytest.skip("gcc is not installed: apt-get install gcc")
    assert len(rows) == 4
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
