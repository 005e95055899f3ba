"""Random edits as in tests/labs/test_random_edits.py, in the mode ipvs on a kernel with IPVS."""

from __future__ import annotations

import pytest

from tests.labs.lab import Lab
from tests.labs.test_random_edits import THOROUGH_BATCHES, EditedLab, run_batches

pytestmark = pytest.mark.vm


def test_outcomes_follow_every_edit(lab: Lab, pytestconfig: pytest.Config) -> None:
    """One batch, because emulation is slow; with `--thorough` as many as in the other modes."""
    run_batches(
        lab,
        EditedLab("ipvs", 4, seed=4),
        batches=THOROUGH_BATCHES if pytestconfig.getoption("thorough") else 1,
    )
