"""Readiness of the agents of CNI plugins: BGP sessions, VTEPs, keys and routes of their node.

Source: projectcalico/calico node/pkg/health/health.go (checkBIRDReady), whose message is used for
sessions; birdc's `show protocols all`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Final

from kubenetlab.datapath.agents.handshakes import REJECT_AFTER_S, Handshakes
from kubenetlab.datapath.agents.health import AgentHealth
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.overlay_state import missing_entries, missing_routes, wireguard_sessions
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from kubenetlab.lab.transport.control_socket import ask

SHOWN: Final = 5
"""Maximum number of missing objects that a message names."""
_STATE: Final = re.compile(r"BGP state:\s+(\S+)")
_NEIGHBOR: Final = re.compile(r"Neighbor address:\s+(\S+)")


async def check(
    health: AgentHealth,
    netns: str,
    namespace: NetnsSocketFactory,
    trees: FileTrees,
    handshakes: Handshakes,
) -> str | None:
    """Return why an agent is not ready; None if it is.

    netns: sandbox of the node. namespace: its network. trees: files of all sandboxes.
    handshakes: sessions of WireGuard in the check before; they are updated.
    """
    if health.control:
        try:
            lines = await ask(trees, netns, health.control, "show protocols all")
        except OSError:
            return (
                f"{health.title} is not ready: BIRD is not live: {health.control} does not answer"
            )
        if down := [address for address, state in sessions(lines) if state != "Established"]:
            return f"{health.title} is not ready: BIRD is not ready: BGP not established with " + (
                ",".join(down)
            )
    if problems := namespace.call(lambda: list(missing(health, handshakes))):
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        return f"{health.title} is not ready: no {', '.join(problems[:SHOWN])}{more}"
    return None


def missing(health: AgentHealth, handshakes: Handshakes) -> Iterator[str]:
    """Yield what the current network namespace lacks."""
    if health.vteps:
        yield from (f"VTEP {node} on {link}" for link, _, node in missing_entries(health.vteps))
    if health.keys:
        yield from _missing_keys(health, handshakes)
    if health.routes:
        yield from (f"route to {destination}" for destination in missing_routes(health.routes))


def _missing_keys(health: AgentHealth, handshakes: Handshakes) -> Iterator[str]:
    """Yield the peers that the links do not have, and those that do not answer handshakes."""
    present = wireguard_sessions()
    silent = {
        (session.link, session.public_key) for session in handshakes.silent(present, time.time())
    }
    existing = {(session.link, session.public_key) for session in present}
    for link, key, node in health.keys:
        if (link, key) not in existing:
            yield f"WireGuard peer {node} on {link}"
        elif (link, key) in silent:
            yield (
                f"WireGuard handshake with {node} on {link} for more than {REJECT_AFTER_S:.0f} s, "
                "although packets are sent to it"
            )


def sessions(lines: list[str]) -> list[tuple[str, str]]:
    """Return (address of the neighbour, state) of each BGP session.

    lines: reply to `show protocols all`.
    """
    found: list[tuple[str, str]] = []
    state = ""
    for line in lines:
        if match := _STATE.search(line):
            state = match[1]
        elif (match := _NEIGHBOR.search(line)) and state:
            found.append((match[1], state))
            state = ""
    return found
