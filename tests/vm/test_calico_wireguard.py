"""calico's option wireguard: packets between pods of different nodes are encrypted."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.frames import ETHERNET_BYTES, UDP, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import (
    is_readable,
    mtu_of,
    private_keys,
    say,
    seed_of,
    shown_texts,
    wait_for_connectivity,
    wait_until_repaired,
)

pytestmark = pytest.mark.vm

LINK = "wireguard.cali"
LINKS = {4: LINK, 6: "wg-v6.cali"}
PORTS = {4: 51820, 6: 51821}
OVERHEADS = {4: 60, 6: 80}
IP_BYTES = {4: 20, 6: 40}
BGP = "{type: calico, wireguard: true}"
VXLAN = "{type: calico, backend: vxlan, wireguard: true}"


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


@pytest.mark.parametrize(("cni", "family"), [(BGP, "dual"), (VXLAN, "ipv6")])
def test_pods_talk_encrypted(lab: Lab, cni: str, family: str) -> None:
    """Everything works, on a routed fabric as well, and only WireGuard crosses it between pods."""
    lab.up(manifest(family, cni))
    wait_for_connectivity(lab)
    assert lab.problems == []
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
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
    assert mtu_of(lab, "a") == (1440 if family == "ipv4" else 1420)


def test_the_overhead_is_what_the_manual_says(lab: Lab) -> None:
    """WireGuard fills packets up to a multiple of 16 bytes, but not beyond the MTU."""
    lab.up(manifest("dual", BGP))
    wait_for_connectivity(lab)
    for address in lab.pod("c")["addresses"]:
        version = 6 if ":" in address else 4
        data_bytes = mtu_of(lab, "a") - IP_BYTES[version] - 8
        ping = ("ping", "-c", "3", "-W", "20", "-M", "do", "-s", str(data_bytes))
        with captured_frames(lab, "worker") as frames:
            lab.inside(lab.pod("a"), *ping, address)
        size = ETHERNET_BYTES + mtu_of(lab, "a") + OVERHEADS[version]
        sizes = [
            frame.size
            for frame in frames
            if frame.is_sent and frame.protocol == UDP and frame.port == PORTS[version]
        ]
        padding = -mtu_of(lab, "a") % 16 if version == 4 else 0
        assert sizes.count(size + padding) >= 3, (sizes, size)
        assert max(frame.size for frame in frames) <= ETHERNET_BYTES + 1500


def test_it_is_switched_on_and_off(lab: Lab) -> None:
    """Without it the capture reads every word, with it none; sandboxes are made again."""
    texts = {
        value: manifest("ipv4", f"{{type: calico, backend: vxlan, wireguard: {value}}}")
        for value in ("true", "false")
    }
    lab.up(texts["false"])
    for value in ("false", "true", "false"):
        lab.run("up", "-f", "-", stdin=texts[value])
        wait_until_repaired(lab)
        wait_for_connectivity(lab)
        with captured_frames(lab, "worker") as frames:
            say(lab, lab.pod("c")["addresses"][0])
        assert is_readable(frames) == (value == "false")
        assert mtu_of(lab, "a") == (1440 if value == "true" else 1450)
        rules = lab.inside(lab.place("nodes", "worker"), "ip", "rule")
        assert ("not from all fwmark 0x200000/0x200000 lookup 1" in rules) == (value == "true")


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    """A new agent uses the same keys. A new node gets its own, and all others know it."""
    text = manifest("ipv4", BGP)
    planned = lab.run("plan", "-f", "-", stdin=text).out
    lab.up(text)
    before = private_keys(lab, LINK)
    assert len(set(before.values())) == 4
    lab.kill("agent")
    wait_until_repaired(lab)
    assert private_keys(lab, LINK) == before
    lab.apply(manifest("ipv4", BGP, "a a b c"))
    wait_for_connectivity(lab)
    after = private_keys(lab, LINK)
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 5
    assert lab.run("check", "-o", "json").json["ok"]
    node = lab.place("nodes", "worker")
    lab.inside(node, "ip", "link", "delete", LINK)
    lab.inside(node, "ip", "rule", "delete", "priority", "99")
    wait_until_repaired(lab)
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert not is_readable(frames)
    shown = planned + shown_texts(lab)
    for key in (*after.values(), seed_of(lab)):
        assert key not in shown
