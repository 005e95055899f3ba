"""Print keys and peers of WireGuard, and XFRM states and policies, without the keys themselves."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kubenetlab.hoststate.encryption.wireguard import (
    WIREGUARD_MESSAGES,
    WireguardDevice,
    WireguardPeer,
)
from kubenetlab.hoststate.links.messages import decode_link, dump_links
from kubenetlab.hoststate.netlink.protocols import WIREGUARD
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket, RouteSocket

_XFRM_KEY: Final = re.compile(r"0x[0-9a-f]{32,}")
_COUNTERS: Final = "anti-replay context"


def read_keys() -> dict[str, Any]:
    """Return devices, peers, states and policies of the current network namespace."""
    with RouteSocket() as route:
        links = [decode_link(body) for body in route.dump(dump_links())]
    objects: list[Any] = []
    for request in WIREGUARD_MESSAGES.dumps("", links):
        with NetlinkSocket(WIREGUARD) as connection:
            bodies = connection.dump(request)
        objects += [obj for obj, _ in WIREGUARD_MESSAGES.decode("", bodies, {})]
    return {
        "devices": [obj for obj in objects if isinstance(obj, WireguardDevice)],
        "peers": [obj for obj in objects if isinstance(obj, WireguardPeer)],
        "xfrm": {kind: _xfrm(kind) for kind in ("state", "policy")},
    }


def _xfrm(kind: str) -> str:
    """Return the output of `ip xfrm`; nothing if the kernel has no XFRM."""
    command = ("ip", "xfrm", kind)
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def owners_of_keys(states: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the first node with each public key, by the key."""
    owners: dict[str, str] = {}
    for name, state in states.items():
        for device in state["keys"]["devices"]:
            owners.setdefault(device.public_key, name.partition("_")[2])
    return owners


def key_entries(keys: Mapping[str, Any], owners: Mapping[str, str]) -> Iterator[str]:
    """Yield the entries of one namespace; a public key is described by its owner."""
    for device in keys["devices"]:
        mark = f" fwmark {device.mark:#x}" if device.mark else ""
        owner = owners[device.public_key]
        yield f"wireguard {device.link} key <of {owner}> port {device.port}{mark}"
    yield from sorted(
        f"wireguard {peer.link} peer <of {owners.get(peer.public_key, '?')}> "
        f"endpoint {peer.address} port {peer.port} allowed ips {', '.join(peer.allowed_ips)}"
        + (f" keepalive {peer.keepalive_s}" if peer.keepalive_s else "")
        for peer in keys["peers"]
    )
    for kind, text in keys["xfrm"].items():
        blocks = re.split(r"\n(?=\S)", text.strip())
        yield from sorted(_xfrm_entry(kind, block) for block in blocks if block)


def _xfrm_entry(kind: str, block: str) -> str:
    """Return a state or a policy with the length of its key, and without counters."""
    masked = _XFRM_KEY.sub(lambda match: f"<{(len(match[0]) - 2) // 2} bytes>", block)
    lines = [line.rstrip() for line in masked.splitlines() if _COUNTERS not in line]
    return "\n".join([f"xfrm {kind} {lines[0]}", *lines[1:]])
