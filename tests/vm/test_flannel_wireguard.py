"""flannel's backend wireguard: the fabric carries no plain byte of what pods say."""

from __future__ import annotations

import pytest

from tests.labs.frames import UDP, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.patience import patiently
from tests.vm.encryption import (
    assert_keys_are_kept,
    is_readable,
    mtu_of,
    say,
    up_completely,
    wait_for_connectivity,
)

pytestmark = pytest.mark.vm

LINK = "flannel-wg"
WIREGUARD = "{type: flannel, backend: wireguard}"


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and only WireGuard crosses it."""
    up_completely(lab, manifest(family, WIREGUARD))
    for address in lab.pod("c")["addresses"]:
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert len(frames) >= 6
        assert not is_readable(frames)
        assert {51820, 51821} & {frame.port for frame in frames if frame.protocol == UDP}
    assert mtu_of(lab, "a") == 1420


def test_the_agent_of_a_node_checks_its_peers(lab: Lab) -> None:
    """Its log names them; `inspect` shows the age of their keys."""
    lab.up(manifest("ipv4", WIREGUARD))
    agents = [pod for pod in lab.inspected["pods"] if pod["namespace"] == "kube-flannel"]
    assert len(agents) == len(lab.inspected["nodes"])
    assert all(pod["ready"] for pod in agents)
    log = lab.run("logs", "-n", "kube-flannel", agents[0]["name"]).out
    assert "Added WireGuard peer " in log
    assert f"{len(agents) - 1} WireGuard peers present" in log
    wait_for_connectivity(lab)
    shown = lab.run("inspect", "node:worker").out
    keys = lab.run("inspect", "node:worker", "-o", "json").json["keys"]
    assert len(keys) == len(agents) - 1
    for entry in keys:
        assert f"  {entry['object']}: latest handshake " in shown
        assert 0 <= entry["age_s"] < patiently(60)
        assert entry["sent_bytes"] > 0


def test_without_wireguard_the_capture_reads_every_word(lab: Lab) -> None:
    """This is what proves that the capture would see plain bytes."""
    lab.up(manifest("ipv4", "{type: flannel}"))
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert is_readable(frames)


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    assert_keys_are_kept(lab, WIREGUARD, LINK, rule_priority=None)
