"""The kernel state of each CNI mode is that of its golden file: `scripts/golden kernel`."""

from __future__ import annotations

import time

import pytest

from tests.golden.kernel_states import (
    LISTINGS,
    NETWORKS,
    NONE,
    SECOND_LISTINGS,
    SECOND_NETWORKS,
    state,
    state_without_network,
)
from tests.labs.lab import Lab
from tests.labs.pod_networks import PLUGINS_ADVICE, has_plugins
from tests.patience import patiently

SETTLED_S = 5.0
"""Time after which the kernel has reported all changes of links and routes, in seconds."""


def test_each_mode_has_a_golden_file() -> None:
    """`scripts/golden kernel` writes that of a new mode."""
    assert {path.stem for path in LISTINGS.iterdir()} == {*NETWORKS, NONE}
    assert {path.stem for path in SECOND_LISTINGS.iterdir()} == set(SECOND_NETWORKS)


def test_the_state_without_a_network(lab: Lab) -> None:
    assert state_without_network(lab) == (LISTINGS / f"{NONE}.txt").read_text()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_of_a_mode(lab: Lab, name: str) -> None:
    """Nothing else is added, and nothing is missing."""
    if name == "conflist" and not has_plugins():
        pytest.skip(PLUGINS_ADVICE)
    expected = (LISTINGS / f"{name}.txt").read_text()
    deadline = time.monotonic() + patiently(SETTLED_S)
    while (actual := state(lab, name)) != expected and time.monotonic() < deadline:
        pass
    assert actual == expected
