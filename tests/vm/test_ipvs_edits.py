"""Random edits, as in tests/labs/test_random_edits.py, in the mode ipvs, which needs this kernel's
modules.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_random_edits import THOROUGH_BATCHES, Edited, follow

pytestmark = pytest.mark.vm


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


def test_packets_follow_every_edit(lab: Lab, pytestconfig: pytest.Config) -> None:
    """A few, for emulation is slow; with `--thorough` as many as in the other modes."""
    follow(
        lab,
        Edited("ipvs", 4, seed=4),
        batches=THOROUGH_BATCHES if pytestconfig.getoption("thorough") else 1,
    )
