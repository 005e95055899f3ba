"""Limits of real commands by cgroups of version 2, which Debian's kernel has at their root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubenetlab.kernel.processes.cgroups import Parent, read_parents
from tests.conftest import OURS
from tests.labs import test_resource_limits
from tests.labs.lab import Lab

pytestmark = pytest.mark.vm


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that is not up yet; gone after the test."""
    lab = Lab(f"{OURS}vm")
    yield lab
    if lab.directory.exists():
        lab.down()
    assert lab.remains == []


def test_limits_of_version_2(lab: Lab) -> None:
    """Memory.

    OOMKilled, the neighbour lives; the number of processes; probes too; and nothing is left after a
    kill of init.
    """
    (parent,) = read_parents()
    assert isinstance(parent, Parent)
    assert (parent.version, parent.controllers) == (2, ("memory", "pids"))
    test_resource_limits.test_a_command_beyond_its_memory_limit_is_killed(lab)
    lab.down()
    test_resource_limits.test_processes_of_a_container_are_limited(lab)
    lab.down()
    test_resource_limits.test_a_probe_has_the_limits_of_its_container(lab)
    lab.down()
    test_resource_limits.test_nothing_is_left_of_groups(lab)
