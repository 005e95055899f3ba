"""flannel's backend wireguard: the fabric carries no plain byte of what pods say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.conftest import new_lab
from tests.labs.frames import UDP, captured_frames
from tests.labs.lab import Lab, wait_for
from tests.labs.test_routed_fabric import manifest

pytestmark = pytest.mark.vm

MARKER = "everybody-can-read-this"
WIREGUARD = "{type: flannel, backend: wireguard}"
READ_KEY = """
from kubenetlab.hoststate.links.messages import decode_link, dump_links
from kubenetlab.hoststate.netlink.protocols import ROUTE, WIREGUARD
from kubenetlab.hoststate.wireguard import WIREGUARD_MESSAGES
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket
links = [decode_link(body) for body in NetlinkSocket(ROUTE).dump(dump_links())]
(request,) = WIREGUARD_MESSAGES.dumps("", links)
(device, _), *_ = WIREGUARD_MESSAGES.decode("", NetlinkSocket(WIREGUARD).dump(request), {})
print(device.private_key.base64)
"""
"""Program that prints the private key of the namespace's WireGuard link."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


def say(lab: Lab, address: str) -> None:
    """Send the marker from the pod `a` to an address, which sends it back."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:8080/echo?msg={MARKER}"
    program = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=20).read())"
    assert MARKER in lab.inside(lab.pod("a"), sys.executable, "-c", program)


def shake_hands(lab: Lab) -> None:
    """Wait until all nodes have sessions.

    The first packet to a peer waits for a handshake. Those of all nodes at once take longer than a
    probe waits on an emulated processor.
    """
    wait_for(lambda: lab.run("ping", status=None).status == 0, "the handshakes of all nodes")


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and only WireGuard crosses it."""
    lab.up(manifest(family, WIREGUARD))
    shake_hands(lab)
    assert lab.problems == []
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
    for address in lab.pod("c")["addresses"]:
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert len(frames) >= 6
        assert not any(MARKER.encode() in frame.data for frame in frames)
        assert {51820, 51821} & {frame.port for frame in frames if frame.protocol == UDP}
    (link,) = json.loads(lab.run("exec", "a", "--", "ip", "-j", "link", "show", "eth0").out)
    assert link["mtu"] == 1420


def test_without_wireguard_the_capture_reads_every_word(lab: Lab) -> None:
    """This is what proves that the capture would see plain bytes."""
    lab.up(manifest("ipv4", "{type: flannel}"))
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert any(MARKER.encode() in frame.data for frame in frames)


def test_keys_are_kept_and_shown_nowhere(lab: Lab) -> None:
    """A new agent uses the same keys. A new node gets its own, and all others know it."""
    text = manifest("ipv4", WIREGUARD)
    planned = lab.run("plan", "-f", "-", stdin=text)
    lab.up(text)
    before = private_keys(lab)
    assert len(set(before.values())) == 4
    lab.kill("agent")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the new agent to be ready")
    assert private_keys(lab) == before
    lab.apply(manifest("ipv4", WIREGUARD, "a a b c"))
    shake_hands(lab)
    after = private_keys(lab)
    assert {name: after[name] for name in before} == before
    assert lab.run("check", "-o", "json").json["ok"]
    lab.run("exec", "node:worker", "--", "ip", "link", "delete", "flannel-wg")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the link to be restored")
    say(lab, lab.pod("c")["addresses"][0])
    seed = re.search(r'"seed":"([0-9a-f]{64})"', store_text(lab))
    assert seed is not None
    shown = "".join(
        (
            planned.out,
            lab.run("plan", "-o", "wide").out,
            lab.run("plan", "-o", "json").out,
            lab.run("plan", "-o", "sh").out,
            lab.run("inspect", "node:worker", "-o", "json").out,
            lab.run("get", "nodes", "-o", "json").out,
            (lab.directory / "log").read_text(),
        )
    )
    for key in (*after.values(), seed[1]):
        assert key not in shown


def store_text(lab: Lab) -> str:
    return "".join(
        path.read_text(errors="replace")
        for path in Path(lab.directory).iterdir()
        if path.name.startswith("store")
    )


def private_keys(lab: Lab) -> dict[str, str]:
    """Return the private key of each node in base64, as the kernel has it."""
    return {
        node["name"]: lab.inside(node, sys.executable, "-c", READ_KEY).strip()
        for node in lab.inspected["nodes"]
    }
