"""Tools of the tests of encryption: a payload to search for in frames, and printed output."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.labs.frames import Frame
from tests.labs.lab import Lab, wait_for

MARKER = "everybody-can-read-this"

READ_KEY = """
import sys
from kubenetlab.hoststate.links.messages import decode_link, dump_links
from kubenetlab.hoststate.netlink.protocols import ROUTE, WIREGUARD
from kubenetlab.hoststate.wireguard import WIREGUARD_MESSAGES
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket
links = [decode_link(body) for body in NetlinkSocket(ROUTE).dump(dump_links())]
links = [link for link in links if link.name == sys.argv[1]]
(request,) = WIREGUARD_MESSAGES.dumps("", links)
(device, _), *_ = WIREGUARD_MESSAGES.decode("", NetlinkSocket(WIREGUARD).dump(request), {})
print(device.private_key.base64)
"""
"""Program that prints the private key of a WireGuard link."""


def say(lab: Lab, address: str) -> None:
    """Send the marker from the pod `a` to an address, which sends it back."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:8080/echo?msg={MARKER}"
    program = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=20).read())"
    assert MARKER in lab.inside(lab.pod("a"), sys.executable, "-c", program)


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


def mtu_of(lab: Lab, pod: str) -> int:
    """Return the MTU of a pod's link."""
    (link,) = json.loads(lab.inside(lab.pod(pod), "ip", "-j", "link", "show", "eth0"))
    return int(link["mtu"])


def private_keys(lab: Lab, link: str) -> dict[str, str]:
    """Return the private key of each node's WireGuard link in base64, as the kernel has it."""
    return {
        node["name"]: lab.inside(node, sys.executable, "-c", READ_KEY, link).strip()
        for node in lab.inspected["nodes"]
    }


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
