"""The kernel state of modes that need this kernel is their golden file: `scripts/golden vm`."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.golden.kernel_states import (
    SECOND_LISTINGS,
    SECOND_NETWORKS,
    second_state,
    state_without_network,
)
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_kernel_listings import SETTLED_S
from tests.patience import patiently

pytestmark = pytest.mark.vm

SEPARATOR = "-----"
"""Line before the name, and before and after the text, of a state that is not that of its file."""


@pytest.fixture(scope="module")
def without_network() -> str:
    """Return the listing of the cluster without a network.

    Modules of tunnels add a link to every namespace. Other tests may have loaded them, so all are
    loaded before.
    """
    subprocess.run(("modprobe", "--all", "ipip", "sit", "ip6_tunnel"), check=True)
    (listing,) = [state_without_network(lab) for lab in new_lab()]
    return listing


@pytest.mark.parametrize("name", SECOND_NETWORKS)
def test_the_state_of_a_mode(lab: Lab, name: str, without_network: str) -> None:
    """Nothing else is added, and nothing is missing. Keys are not shown."""
    path = SECOND_LISTINGS / f"{name}.txt"
    expected = path.read_text() if path.exists() else ""
    deadline = time.monotonic() + patiently(SETTLED_S)
    while (actual := second_state(lab, name, without_network)) != expected:
        if not expected or time.monotonic() > deadline:
            break
        os.sched_yield()
    if actual != expected:
        print(f"\n{SEPARATOR}\n{name}\n{SEPARATOR}\n{actual}{SEPARATOR}")
    assert actual == expected
