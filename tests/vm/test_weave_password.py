"""weave with a password: the tunnels between nodes are ESP, and nobody reads what pods say."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from kubenetlab.hoststate.xfrm import OVERHEAD_BYTES
from tests.labs.conftest import new_lab
from tests.labs.frames import ETHERNET_BYTES, captured_frames
from tests.labs.lab import Lab
from tests.labs.test_routed_fabric import manifest
from tests.vm.encryption import (
    is_readable,
    mtu_of,
    say,
    seed_of,
    shown_texts,
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


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from new_lab()


def secret(password: str = PASSWORDS[0]) -> str:
    return (
        "---\napiVersion: v1\nkind: Secret\n"
        "metadata: {name: weave-passwd, namespace: kube-system}\n"
        f"stringData: {{weave-passwd: {password}}}\n"
    )


@pytest.mark.parametrize("family", ["ipv6", "dual"])
def test_pods_talk_encrypted(lab: Lab, family: str) -> None:
    """Everything works, on a routed fabric as well, and only ESP crosses it between pods."""
    lab.up(manifest(family, WEAVE) + secret())
    assert lab.problems == []
    assert lab.run("check", "-o", "json").json["ok"]
    assert lab.run("diff").status == 0
    for address in lab.pod("c")["addresses"]:
        with captured_frames(lab, "worker") as frames:
            say(lab, address)
        assert not is_readable(frames)
        between_pods = [frame for frame in frames if frame.protocol == ESP]
        assert len(between_pods) >= 6
        assert {frame.is_sent for frame in between_pods} == {True, False}
        assert not [frame for frame in frames if frame.protocol == UDP and frame.port == 6784]
    assert mtu_of(lab, "a") == 1376


def test_the_overhead_is_what_the_manual_says(lab: Lab) -> None:
    """A packet of the size of the MTU crosses the fabric in one piece."""
    lab.up(manifest("dual", WEAVE) + secret())
    pod = lab.pod("a")
    for address in lab.pod("c")["addresses"]:
        version = 6 if ":" in address else 4
        for data_bytes in (56, 57, mtu_of(lab, "a") - IP_BYTES[version] - 8):
            size = ETHERNET_BYTES + IP_BYTES[version] + 8 + data_bytes
            ping = ("ping", "-c", "3", "-W", "20", "-M", "do", "-s", str(data_bytes))
            with captured_frames(lab, "worker") as frames:
                lab.inside(pod, *ping, address)
            datagram = 16 + size
            esp = 8 + 8 + datagram + (-datagram - 2) % 4 + 2 + 16
            on_fabric = ETHERNET_BYTES + IP_BYTES[4] + esp
            assert esp - datagram <= OVERHEAD_BYTES
            sizes = [frame.size for frame in frames if frame.protocol == ESP and frame.is_sent]
            assert sizes.count(on_fabric) >= 3, (sizes, on_fabric)
            assert max(frame.size for frame in frames) <= ETHERNET_BYTES + 1500


def test_without_a_password_the_capture_reads_every_word(lab: Lab) -> None:
    """This is what proves that the capture would see plain bytes."""
    lab.up(manifest("ipv4", "weave"))
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert is_readable(frames)


def test_without_the_secret_nothing_crosses_the_fabric(lab: Lab) -> None:
    """`up` says what is missing and ends with status 1; with the Secret everything works."""
    created = lab.run("up", "-f", "-", stdin=manifest("ipv4", WEAVE), status=1)
    assert "expected a Secret kube-system/weave-passwd" in created.err
    (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.pod("c")["addresses"][0], 8080))
    assert not answer.server
    lab.apply(secret())
    wait_for_connectivity(lab)
    assert lab.run("check", "-o", "json").json["ok"]


def test_keys_follow_the_password_and_are_shown_nowhere(lab: Lab) -> None:
    """A new agent uses the same keys; a new password and a new node get new ones."""
    text = manifest("ipv4", WEAVE) + secret()
    planned = lab.run("plan", "-f", "-", stdin=text).out
    lab.up(text)
    first = keys(lab)
    assert len(set(first.values())) == 4 * 3
    lab.kill("agent")
    wait_until_repaired(lab)
    assert keys(lab) == first
    applied = lab.apply(secret(PASSWORDS[1]))
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


def keys(lab: Lab) -> dict[tuple[str, str], str]:
    """Return (source, destination) → key, as the kernels of all nodes have it."""
    found: dict[tuple[str, str], str] = {}
    for node in lab.inspected["nodes"]:
        states = lab.inside(node, "ip", "xfrm", "state")
        for source, destination, key in _STATE.findall(states):
            assert found.setdefault((source, destination), key) == key
    return found
