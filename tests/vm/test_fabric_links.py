"""Delay and loss of links between nodes, on a kernel with netem."""

from __future__ import annotations

import re

import pytest

from tests.labs.lab import Lab
from tests.labs.test_fabric_links import manifest

pytestmark = pytest.mark.vm


def received(lab: Lab, count: int) -> list[float]:
    """Return the times of the answered pings between two pods, in milliseconds."""
    b = lab.pod("b")["addresses"][0]
    words = ("ping", "-c", str(count), "-i", "0.05", "-W", "2", b)
    result = lab.run("exec", "a", "--", *words, status=None)
    return [float(time) for time in re.findall(r"time=([\d.]+)", result.out)]


def test_a_ping_crosses_each_link_twice(lab: Lab) -> None:
    """Two links and both directions: four delays. The settings change while the lab is up."""
    lab.up(manifest("{delay: 20ms}"))
    assert min(received(lab, 3)) >= 80
    assert lab.run("diff").status == 0
    lab.apply(manifest("{node: worker, loss: 50%}"))
    assert 2 < len(received(lab, 60)) < 40
    lab.apply(manifest(""))
    assert len(received(lab, 5)) == 5
    assert lab.run("diff").status == 0
