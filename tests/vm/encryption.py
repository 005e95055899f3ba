"""Tools of the tests of encryption: a payload to search for in frames, and printed output."""

from __future__ import annotations

import json
import re
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

from kubenetlab.hoststate.encryption.wireguard import WIREGUARD_MESSAGES, WireguardDevice
from kubenetlab.hoststate.links.messages import decode_link, dump_links
from kubenetlab.hoststate.netlink.protocols import ROUTE, WIREGUARD
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket
from tests.labs.frames import Frame, captured_frames
from tests.labs.lab import Lab, wait_for
from tests.labs.test_routed_fabric import manifest
from tests.patience import patiently

MARKER = "everybody-can-read-this"


def say(lab: Lab, address: str) -> None:
    """Send the marker from the pod `a` to an address, which sends it back."""
    with (
        lab.network(lab.pod("a")),
        closing(HTTPConnection(address, 8080, timeout=patiently(20))) as connection,
    ):
        connection.request("GET", f"/echo?msg={MARKER}")
        assert MARKER in connection.getresponse().read().decode()


def is_readable(frames: list[Frame]) -> bool:
    """Return True if any frame contains the marker."""
    return any(MARKER.encode() in frame.data for frame in frames)


def wait_for_connectivity(lab: Lab) -> None:
    """Wait until every pod reaches every pod.

    With WireGuard the first packet to a peer waits for a handshake. Those of all nodes at once take
    longer than a probe waits on an emulated processor.
    """
    wait_for(lambda: lab.run("ping", status=None).status == 0, "the connectivity of all pods")


def wait_until_repaired(lab: Lab) -> None:
    """Wait until the kernel has what the lab wants."""
    wait_for(lambda: lab.run("diff", status=None).status == 0, "an empty difference")


def up_completely(lab: Lab, manifests: str) -> None:
    """Make a lab in which everything works, and whose kernel has what the lab wants."""
    lab.up(manifests)
    wait_for(lambda: lab.problems == [], "a complete lab")
    assert lab.run("check", "-o", "json").json["ok"]


def assert_keys_are_kept(lab: Lab, cni: str, link: str, *, rule_priority: int | None) -> None:
    """Require that keys outlive their agent, follow the nodes, and are shown nowhere.

    A new agent uses the same keys, and a new node gets one of its own. A deleted link and a deleted
    policy rule are made again.

    link: name of the WireGuard link of each node.
    """
    text = manifest("ipv4", cni)
    planned = lab.run("plan", "-f", "-", stdin=text)
    lab.up(text)
    before = private_keys(lab, link)
    assert len(set(before.values())) == 4
    lab.kill("agent")
    wait_until_repaired(lab)
    assert private_keys(lab, link) == before
    lab.apply(manifest("ipv4", cni, "a a b c"))
    wait_for_connectivity(lab)
    after = private_keys(lab, link)
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 5
    assert lab.run("check", "-o", "json").json["ok"]
    node = lab.place("nodes", "worker")
    lab.inside(node, "ip", "link", "delete", link)
    if rule_priority is not None:
        lab.inside(node, "ip", "rule", "delete", "priority", str(rule_priority))
    wait_until_repaired(lab)
    with captured_frames(lab, "worker") as frames:
        say(lab, lab.pod("c")["addresses"][0])
    assert not is_readable(frames)
    shown = planned.out + planned.err + shown_texts(lab)
    for key in (*after.values(), seed_of(lab)):
        assert key not in shown


def mtu_of(lab: Lab, pod: str) -> int:
    """Return the MTU of a pod's link."""
    (link,) = json.loads(lab.inside(lab.pod(pod), "ip", "-j", "link", "show", "eth0"))
    return int(link["mtu"])


def private_keys(lab: Lab, link: str) -> dict[str, str]:
    """Return the private key of each node's WireGuard link in base64, as the kernel has it."""
    keys: dict[str, str] = {}
    for node in lab.inspected["nodes"]:
        with (
            lab.network(node),
            NetlinkSocket(ROUTE) as route,
            NetlinkSocket(WIREGUARD) as connection,
        ):
            links = [decode_link(body) for body in route.dump(dump_links())]
            links = [each for each in links if each.name == link]
            (request,) = WIREGUARD_MESSAGES.dumps("", links)
            bodies = connection.dump(request)
        (device, _), *_ = WIREGUARD_MESSAGES.decode("", bodies, {})
        assert isinstance(device, WireguardDevice)
        keys[node["name"]] = device.private_key.base64
    return keys


def seed_of(lab: Lab) -> str:
    """Return the seed from which keys of the lab are derived, in hexadecimal."""
    texts = (
        path.read_text(errors="replace")
        for path in Path(lab.directory).iterdir()
        if path.name.startswith("store")
    )
    seed = re.search(r'"seed":"([0-9a-f]{64})"', "".join(texts))
    assert seed is not None
    return seed[1]


def shown_texts(lab: Lab) -> str:
    """Return all that commands and the log of the lab show about its nodes."""
    commands = (
        ("plan", "-o", "wide"),
        ("plan", "-o", "json"),
        ("plan", "-o", "sh"),
        ("diff",),
        ("inspect", "node:worker", "-o", "json"),
        ("inspect", "-o", "json"),
        ("get", "nodes", "-o", "json"),
        ("describe", "node", "worker"),
    )
    outputs = [lab.run(*words, status=None) for words in commands]
    return "".join(
        [*(f"{output.out}{output.err}" for output in outputs), (lab.directory / "log").read_text()]
    )
