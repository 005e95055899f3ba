"""weave with a password: the tunnels between nodes are ESP, and nobody reads what pods say."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from kubenetlab.hoststate.encryption.xfrm import OVERHEAD_BYTES
from tests.labs.frames import ETHERNET_BYTES, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import (
    is_readable,
    mtu_of,
    say,
    seed_of,
    shown_texts,
    up_completely,
    wait_for_connectivity,
    wait_until_repaired,
)

pytestmark = pytest.mark.vm

ESP, UDP = 50, 17
IP_BYTES = {4: 20, 6: 40}
WEAVE = "{type: weave, passwordSecret: weave-passwd}"
_STATE = re.compile(
    r"^src (\S+) dst (\S+)$.*?rfc4106\(gcm\(aes\)\) 0x([0-9a-f]{72}) 128",
    re.MULTILINE | re.DOTALL,
)
"""State in the output of `ip xfrm state`: source, destination and key."""
PASSWORDS = ("correct horse battery", "another password")


def secret(password: str = PASSWORDS[0]) -> str:
    return (
        "---\napiVersion: v1\nkind: Secret\n"
        "metadata: {name: weave-passwd, namespace: kube-system}\n"
        f"stringData: {{weave-passwd: {password}}}\n"
    )


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and only ESP crosses it between pods.

    A packet of the size of the MTU crosses the fabric in one piece.
    """
    up_completely(lab, manifest(family, WEAVE) + secret())
    mtu = mtu_of(lab, "a")
    assert mtu == 1376
    for address in lab.pod("c")["addresses"]:
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert not is_readable(frames)
        between_pods = [frame for frame in frames if frame.protocol == ESP]
        assert len(between_pods) >= 6
        assert {frame.is_sent for frame in between_pods} == {True, False}
        assert not [frame for frame in frames if frame.protocol == UDP and frame.port == 6784]
        outer = IP_BYTES[6 if family == "ipv6" else 4]
        inner = IP_BYTES[6 if ":" in address else 4]
        for data_bytes in (56, 57, mtu - inner - 8):
            ping = ("ping", "-c", "3", "-i", "0.2", "-W", "20", "-M", "do", "-s", str(data_bytes))
            with captured_frames(lab, "worker") as frames:
                lab.inside(lab.pod("a"), *ping, address)
            datagram = 16 + ETHERNET_BYTES + inner + 8 + data_bytes
            esp = 8 + 8 + datagram + (-datagram - 2) % 4 + 2 + 16
            assert esp - datagram <= OVERHEAD_BYTES
            sizes = [frame.size for frame in frames if frame.protocol == ESP and frame.is_sent]
            assert sizes.count(ETHERNET_BYTES + outer + esp) >= 3, (sizes, esp)
            assert max(frame.size for frame in frames) <= ETHERNET_BYTES + 1500


def test_keys_follow_the_password_and_are_shown_nowhere(lab: Lab) -> None:
    """A new agent uses the same keys; a new password and a new node get new ones.

    Without the Secret, nothing crosses the fabric, and `up` says what is missing.
    """
    planned = lab.run("plan", "-f", "-", stdin=manifest("ipv4", WEAVE) + secret()).out
    created = lab.up(manifest("ipv4", WEAVE), status=1)
    assert "expected a Secret kube-system/weave-passwd" in created.err
    (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.pod("c")["addresses"][0], 8080))
    assert not answer.server
    lab.apply(secret())
    wait_for_connectivity(lab)
    first = keys(lab)
    assert len(set(first.values())) == 4 * 3
    lab.kill("agent")
    wait_until_repaired(lab)
    assert keys(lab) == first
    lab.run("break", "cni-agent", "--node", "worker")
    applied = lab.apply(secret(PASSWORDS[1]), status=1)
    assert_worker_has_former_keys(lab, first)
    lab.run("heal")
    wait_until_repaired(lab)
    second = keys(lab)
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())
    assert lab.run("check", "-o", "json").json["ok"]
    lab.apply(manifest("ipv4", WEAVE, "a a b c") + secret(PASSWORDS[1]))
    assert lab.run("check", "-o", "json").json["ok"]
    third = keys(lab)
    assert {ends: third[ends] for ends in second} == second
    assert len(set(third.values())) == 5 * 4
    lab.inside(lab.place("nodes", "worker"), "ip", "xfrm", "state", "flush")
    wait_until_repaired(lab)
    assert keys(lab) == third
    say(lab, lab.pod("c")["addresses"][0])
    shown = planned + applied.out + applied.err + shown_texts(lab)
    for key in (*first.values(), *third.values()):
        assert key not in shown
    for password in PASSWORDS:
        assert password not in shown
        assert base64.b64encode(password.encode()).decode() not in shown
    assert seed_of(lab) not in shown


def assert_worker_has_former_keys(lab: Lab, former: dict[tuple[str, str], str]) -> None:
    """Require that the stopped agent of worker has missed the new password, and all say so.

    Nodes that know the new password reach each other; worker reaches none of them.
    """
    nodes = {node["name"]: node for node in lab.inspected["nodes"]}
    for name, node in nodes.items():
        own = keys_of(lab, node)
        unchanged = {ends for ends, key in own.items() if former[ends] == key}
        assert unchanged == (own.keys() if name == "worker" else set())
    pods = {name: lab.pod(name)["addresses"][0] for name in "abc"}
    assert lab.ask(lab.pod("b"), ("TCP", pods["c"], 8080))[0].server
    assert not lab.ask(lab.pod("a"), ("TCP", pods["c"], 8080))[0].server
    assert "has no running agent on worker" in lab.run("ping", "a", "c", status=1).err
    checked = lab.run("check", status=1)
    assert "encrypts with the former password" in checked.out + checked.err


def keys(lab: Lab) -> dict[tuple[str, str], str]:
    """Return (source, destination) → key, as the kernels of all nodes have it."""
    found: dict[tuple[str, str], str] = {}
    for node in lab.inspected["nodes"]:
        for ends, key in keys_of(lab, node).items():
            assert found.setdefault(ends, key) == key
    return found


def keys_of(lab: Lab, node: Any) -> dict[tuple[str, str], str]:
    """Return (source, destination) → key, as the kernel of one node has it."""
    states = lab.inside(node, "ip", "xfrm", "state")
    return {(source, target): key for source, target, key in _STATE.findall(states)}
