"""Limits of real commands by cgroups of version 2, which Debian's kernel mounts at their root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubenetlab.kernel.processes.cgroups import Parent, read_parents
from tests.conftest import LAB_PREFIX
from tests.labs import test_resource_limits
from tests.labs.lab import Lab

pytestmark = pytest.mark.vm


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Yield a lab that is not up yet; remove it after the test."""
    lab = Lab(f"{LAB_PREFIX}vm")
    yield lab
    if lab.directory.exists():
        lab.down()
    assert lab.leftovers == []


def test_limits_by_cgroups_of_version_2(lab: Lab) -> None:
    """They are the limits of memory and processes, also for probes.

    A container beyond its memory is OOMKilled, and its neighbour keeps running. Nothing is left
    after a kill of init.
    """
    (parent,) = read_parents()
    assert isinstance(parent, Parent)
    assert (parent.version, parent.controllers) == (2, ("memory", "pids"))
    test_resource_limits.test_a_command_beyond_its_memory_limit_is_oom_killed(lab)
    lab.down()
    test_resource_limits.test_processes_of_a_container_are_limited(lab)
    lab.down()
    test_resource_limits.test_a_probe_has_the_limits_of_its_container(lab)
    lab.down()
    test_resource_limits.test_cgroups_are_removed(lab)
