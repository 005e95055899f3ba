"""flannel's backend wireguard: the fabric carries no plain byte of what pods say."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.frames import UDP, captured_frames
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

LINK = "flannel-wg"
WIREGUARD = "{type: flannel, backend: wireguard}"


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and only WireGuard crosses it."""
    lab.up(manifest(family, WIREGUARD))
    wait_for_connectivity(lab)
    assert lab.problems == []
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
    for address in lab.pod("c")["addresses"]:
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert len(frames) >= 6
        assert not is_readable(frames)
        assert {51820, 51821} & {frame.port for frame in frames if frame.protocol == UDP}
    assert mtu_of(lab, "a") == 1420


def test_the_agent_of_a_node_checks_its_peers(lab: Lab) -> None:
    """Its log names them, and a key that the link does not have counts as missing."""
    lab.up(manifest("ipv4", WIREGUARD))
    agents = [pod for pod in lab.inspected["pods"] if pod["namespace"] == "kube-flannel"]
    assert len(agents) == len(lab.inspected["nodes"])
    assert all(pod["ready"] for pod in agents)
    log = lab.run("logs", "-n", "kube-flannel", agents[0]["name"]).out
    assert "Added WireGuard peer " in log
    assert f"{len(agents) - 1} WireGuard peers present" in log
    program = (
        "from kubenetlab.kernel.overlay_state import missing_peers; "
        "print(missing_peers([('flannel-wg', 'unknown')]))"
    )
    missing = lab.inside(lab.place("nodes", "worker"), sys.executable, "-c", program)
    assert missing == "[('flannel-wg', 'unknown')]\n"


def test_without_wireguard_the_capture_reads_every_word(lab: Lab) -> None:
    """This is what proves that the capture would see plain bytes."""
    lab.up(manifest("ipv4", "{type: flannel}"))
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert is_readable(frames)


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    """A new agent uses the same keys. A new node gets its own, and all others know it."""
    text = manifest("ipv4", WIREGUARD)
    planned = lab.run("plan", "-f", "-", stdin=text)
    lab.up(text)
    before = private_keys(lab, LINK)
    assert len(set(before.values())) == 4
    lab.kill("agent")
    wait_until_repaired(lab)
    assert private_keys(lab, LINK) == before
    lab.apply(manifest("ipv4", WIREGUARD, "a a b c"))
    wait_for_connectivity(lab)
    after = private_keys(lab, LINK)
    assert {name: after[name] for name in before} == before
    assert lab.run("check", "-o", "json").json["ok"]
    lab.run("exec", "node:worker", "--", "ip", "link", "delete", LINK)
    wait_until_repaired(lab)
    say(lab, lab.pod("c")["addresses"][0])
    shown = planned.out + shown_texts(lab)
    for key in (*after.values(), seed_of(lab)):
        assert key not in shown
