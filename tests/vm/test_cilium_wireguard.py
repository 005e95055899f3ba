"""cilium's option enableWireguard: the packets of its tunnels are encrypted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.frames import ETHERNET_BYTES, UDP, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import (
    is_readable,
    private_keys,
    say,
    seed_of,
    shown_texts,
    wait_for_connectivity,
    wait_until_repaired,
)

pytestmark = pytest.mark.vm

LINK, PORT, TUNNEL_PORT = "cilium_wg0", 51871, 8472
CILIUM = "{type: cilium, enableWireguard: true}"
IP_BYTES = {4: 20, 6: 40}


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and no packet of a tunnel is readable.

    A packet as large as the MTU crosses the fabric in one piece.
    """
    lab.up(manifest(family, CILIUM))
    wait_for_connectivity(lab)
    assert lab.problems == []
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
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
        ping = ("ping", "-c", "3", "-W", "20", "-M", "do", "-s", str(data_bytes))
        with captured_frames(lab, "worker") as frames:
            lab.inside(lab.pod("a"), *ping, address)
        underlay = 6 if family == "ipv6" else 4
        tunnelled = IP_BYTES[underlay] + 8 + 8 + ETHERNET_BYTES + mtu
        padded = min(1420, tunnelled + -tunnelled % 16)
        size = ETHERNET_BYTES + IP_BYTES[underlay] + 8 + 32 + padded
        sizes = [frame.size for frame in frames if frame.is_sent and frame.protocol == UDP]
        assert sizes.count(size) >= 3, (sizes, size)


def test_without_it_the_capture_reads_every_word(lab: Lab) -> None:
    """This is what proves that the capture would see plain bytes."""
    lab.up(manifest("ipv4", "{type: cilium}"))
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert is_readable(frames)


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    """A new agent uses the same keys. A new node gets its own, and all others know it."""
    lab.up(manifest("ipv4", CILIUM))
    before = private_keys(lab, LINK)
    assert len(set(before.values())) == 4
    lab.kill("agent")
    wait_until_repaired(lab)
    assert private_keys(lab, LINK) == before
    lab.apply(manifest("ipv4", CILIUM, "a a b c"))
    wait_for_connectivity(lab)
    after = private_keys(lab, LINK)
    assert {name: after[name] for name in before} == before
    node = lab.place("nodes", "worker")
    lab.inside(node, "ip", "link", "delete", LINK)
    lab.inside(node, "ip", "rule", "delete", "priority", "1")
    wait_until_repaired(lab)
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert not is_readable(frames)
    shown = shown_texts(lab)
    for key in (*after.values(), seed_of(lab)):
        assert key not in shown
