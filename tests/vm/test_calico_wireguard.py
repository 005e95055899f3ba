"""calico's option wireguard: packets between pods of different nodes are encrypted."""

from __future__ import annotations

import json

import pytest

from tests.labs.frames import ETHERNET_BYTES, UDP, captured_frames
from tests.labs.lab import Lab, wait_for
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import (
    assert_keys_are_kept,
    is_readable,
    mtu_of,
    say,
    up_completely,
)

pytestmark = pytest.mark.vm

LINK = "wireguard.cali"
LINKS = {4: LINK, 6: "wg-v6.cali"}
PORTS = {4: 51820, 6: 51821}
OVERHEADS = {4: 60, 6: 80}
IP_BYTES = {4: 20, 6: 40}
BGP = "{type: calico, wireguard: true}"
VXLAN = "{type: calico, backend: vxlan, wireguard: true}"


@pytest.mark.parametrize(("cni", "family"), [(BGP, "dual"), (VXLAN, "ipv6")])
def test_pods_talk_encrypted(lab: Lab, cni: str, family: str) -> None:
    """Everything works, on a routed fabric as well, and only WireGuard crosses it between pods.

    The overhead is that of the manual: WireGuard fills packets up to a multiple of 16 bytes, but
    not beyond the MTU.
    """
    up_completely(lab, manifest(family, cni))
    mtu = mtu_of(lab, "a")
    assert mtu == 1420
    for address in lab.pod("c")["addresses"]:
        version = 6 if ":" in address else 4
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert not is_readable(frames)
        assert PORTS[version] in {frame.port for frame in frames if frame.protocol == UDP}
        (route,) = json.loads(
            lab.inside(lab.place("nodes", "worker"), "ip", "-j", "route", "get", address)
        )
        assert (route["dev"], route["table"]) == (LINKS[version], "1" if version == 4 else "2")
        data_bytes = mtu - IP_BYTES[version] - 8
        ping = ("ping", "-c", "3", "-i", "0.2", "-W", "20", "-M", "do", "-s", str(data_bytes))
        with captured_frames(lab, "worker") as frames:
            lab.inside(lab.pod("a"), *ping, address)
        sizes = [
            frame.size
            for frame in frames
            if frame.is_sent and frame.protocol == UDP and frame.port == PORTS[version]
        ]
        padding = -mtu % 16 if version == 4 else 0
        size = ETHERNET_BYTES + mtu + OVERHEADS[version] + padding
        assert sizes.count(size) >= 3, (sizes, size)
        assert max(frame.size for frame in frames) <= ETHERNET_BYTES + 1500


def test_it_is_switched_on_and_off(lab: Lab) -> None:
    """Without it the capture reads every word, with it none; sandboxes are made again."""
    texts = {
        value: manifest("ipv4", f"{{type: calico, backend: vxlan, wireguard: {value}}}")
        for value in ("true", "false")
    }
    for value in ("false", "true", "false"):
        lab.run("up", "-f", "-", stdin=texts[value])
        wait_for(lambda: lab.problems == [], "a complete lab")
        with captured_frames(lab, "worker") as frames:
            say(lab, lab.pod("c")["addresses"][0])
        assert is_readable(frames) == (value == "false")
        assert mtu_of(lab, "a") == (1440 if value == "true" else 1450)
        rules = lab.inside(lab.place("nodes", "worker"), "ip", "rule")
        assert ("not from all fwmark 0x200000/0x200000 lookup 1" in rules) == (value == "true")


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    assert_keys_are_kept(lab, BGP, LINK, rule_priority=99)
