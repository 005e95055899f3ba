"""IPIP tunnels between nodes: by tunl0 as calico makes it, and by a link of its own as flannel."""

from __future__ import annotations

import pytest

from tests.labs.frames import ETHERNET_BYTES, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import is_readable, mtu_of, say, up_completely

pytestmark = pytest.mark.vm

IPENCAP = 4


@pytest.mark.parametrize("cni", ["calico", "flannel"])
def test_pods_reach_pods_of_other_nodes(lab: Lab, cni: str) -> None:
    """Everything works, on a routed fabric as well; packets grow by 20 bytes."""
    up_completely(lab, manifest("ipv4", f"{{type: {cni}, backend: ipip}}"))
    assert mtu_of(lab, "a") == 1480
    (address,) = lab.pod("c")["addresses"]
    with captured_frames(lab, "worker") as frames:
        say(lab, address)
        lab.inside(lab.pod("a"), "ping", "-c", "1", "-M", "do", "-s", str(1480 - 28), address)
    assert is_readable(frames)
    tunnelled = [frame for frame in frames if frame.protocol == IPENCAP]
    assert {frame.is_sent for frame in tunnelled} == {True, False}
    assert max(frame.size for frame in tunnelled) == ETHERNET_BYTES + 1500
    readable = [frame for frame in frames if is_readable([frame])]
    assert all(frame.protocol == IPENCAP for frame in readable)
