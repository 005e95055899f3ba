"""cilium's option enableWireguard: the packets of its tunnels are encrypted."""

from __future__ import annotations

import pytest

from tests.labs.frames import ETHERNET_BYTES, UDP, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import (
    assert_keys_are_kept,
    is_readable,
    say,
    up_completely,
)

pytestmark = pytest.mark.vm

LINK, PORT, TUNNEL_PORT = "cilium_wg0", 51871, 8472
CILIUM = "{type: cilium, enableWireguard: true}"
IP_BYTES = {4: 20, 6: 40}


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and no packet of a tunnel is readable.

    A packet as large as the MTU crosses the fabric in one piece.
    """
    up_completely(lab, manifest(family, CILIUM))
    for address in lab.pod("c")["addresses"]:
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert not is_readable(frames)
        ports = {frame.port for frame in frames if frame.protocol == UDP}
        assert PORT in ports
        assert TUNNEL_PORT not in ports
        mtu = 1350 if family == "ipv6" else 1370
        version = 6 if ":" in address else 4
        data_bytes = mtu - IP_BYTES[version] - 8
        ping = ("ping", "-c", "3", "-i", "0.2", "-W", "20", "-M", "do", "-s", str(data_bytes))
        with captured_frames(lab, "worker") as frames:
            lab.inside(lab.pod("a"), *ping, address)
        underlay = 6 if family == "ipv6" else 4
        tunnelled = IP_BYTES[underlay] + 8 + 8 + ETHERNET_BYTES + mtu
        padded = min(1420, tunnelled + -tunnelled % 16)
        size = ETHERNET_BYTES + IP_BYTES[underlay] + 8 + 32 + padded
        sizes = [frame.size for frame in frames if frame.is_sent and frame.protocol == UDP]
        assert sizes.count(size) >= 3, (sizes, size)


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    assert_keys_are_kept(lab, CILIUM, LINK, rule_priority=1)
