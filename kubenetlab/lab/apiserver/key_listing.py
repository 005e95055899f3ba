"""Age and use of the keys of a node's tunnels, as `inspect` shows them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonObject
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.encryption.wireguard_sessions import WireguardSession
from kubenetlab.hoststate.encryption.xfrm_lifetimes import XfrmLifetime
from kubenetlab.hoststate.netlink.protocols import WIREGUARD, XFRM
from kubenetlab.hoststate.object import NetlinkObject
from kubenetlab.hoststate.state import Contents
from kubenetlab.kernel.overlay_state import wireguard_sessions, xfrm_lifetimes

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


def tunnel_keys(agent: Agent, netns: str, observed: Contents) -> list[JsonObject]:
    """Return the keys of a namespace, read from the kernel; nothing if the lab has none there.

    observed: objects of the lab in the namespace.
    """
    protocols = {obj.protocol for obj in observed.values() if isinstance(obj, NetlinkObject)}
    if not protocols & {WIREGUARD, XFRM}:
        return []
    own = {obj.address.partition("/")[0] for obj in observed.values() if isinstance(obj, Address)}
    try:
        with agent.sandboxes.inside(netns):
            sessions, lifetimes = wireguard_sessions(), xfrm_lifetimes(netns)
    except (KeyError, FileNotFoundError, ProcessLookupError):
        return []  # the sandbox is gone
    return list(listed_keys(sessions, lifetimes, own, time.time()))


def listed_keys(
    sessions: Collection[WireguardSession],
    lifetimes: Collection[XfrmLifetime],
    own: Collection[str],
    now: float,
) -> Iterator[JsonObject]:
    """Yield age and use of each key.

    own: addresses of the node, by which the direction of a key for ESP is known.
    now: time when they were read, in seconds since 1970.
    """
    for session in sessions:
        yield {
            "object": str(session),
            "age_s": _age(session.handshake_at, now),
            "received_bytes": session.received_bytes,
            "sent_bytes": session.sent_bytes,
        }
    for lifetime in lifetimes:
        is_sent = lifetime.source in own
        yield {
            "object": str(lifetime),
            "age_s": _age(lifetime.added_at, now),
            "received_bytes": 0 if is_sent else lifetime.bytes,
            "sent_bytes": lifetime.bytes if is_sent else 0,
        }


def _age(since: float, now: float) -> float | None:
    """Return the time since a key was made, in seconds; None if it has not been made yet."""
    return max(0.0, round(now - since, 1)) if since else None
