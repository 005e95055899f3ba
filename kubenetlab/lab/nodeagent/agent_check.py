"""Readiness of the agents of CNI plugins: sessions of BIRD, VTEP peers and routes of their node.

Source: projectcalico/calico node/pkg/health/health.go (checkBIRDReady), whose message is used for
sessions; birdc's `show protocols all`.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from kubenetlab.datapath.agents.health import AgentHealth
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.overlay_state import missing_entries, missing_peers, missing_routes
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory

SHOWN: Final = 5
"""Maximum number of missing objects that a message names."""
_STATE: Final = re.compile(r"BGP state:\s+(\S+)")
_NEIGHBOR: Final = re.compile(r"Neighbor address:\s+(\S+)")


async def check(
    health: AgentHealth, netns: str, namespace: NetnsSocketFactory, trees: FileTrees
) -> str | None:
    """Return why an agent is not ready; None if it is.

    netns: sandbox of the node. namespace: its network. trees: files of all sandboxes.
    """
    if health.control:
        try:
            lines = await _ask_bird(netns, health.control, trees)
        except (OSError, EOFError):
            return (
                f"{health.title} is not ready: BIRD is not live: {health.control} does not answer"
            )
        if down := [address for address, state in sessions(lines) if state != "Established"]:
            return f"{health.title} is not ready: BIRD is not ready: BGP not established with " + (
                ",".join(down)
            )
    if problems := namespace.call(lambda: list(_missing(health))):
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        return f"{health.title} is not ready: no {', '.join(problems[:SHOWN])}{more}"
    return None


def _missing(health: AgentHealth) -> Iterator[str]:
    """Yield what the current network namespace lacks."""
    if health.vteps:
        yield from (f"VTEP {node} on {link}" for link, _, node in missing_entries(health.vteps))
    if health.keys:
        peers = {(link, key): node for link, key, node in health.keys}
        for link, key in missing_peers(peers):
            yield f"WireGuard peer {peers[link, key]} on {link}"
    if health.routes:
        yield from (f"route to {destination}" for destination in missing_routes(health.routes))


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


async def _ask_bird(netns: str, path: str, trees: FileTrees) -> list[str]:
    """Return the lines of BIRD's reply to `show protocols all`."""
    directory, name = os.path.split(path)
    with trees.open_directory(netns, directory) as fd:
        # The path through /proc is short enough for a socket, and a link is refused.
        if not stat.S_ISSOCK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise OSError(f"{path} is not a socket")
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/{name}")
    try:
        await _reply(reader)  # the greeting
        writer.write(b"show protocols all\n")
        return await _reply(reader)
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> list[str]:
    """Read the lines of one reply; the last one has a space behind its code."""
    lines: list[str] = []
    while raw := await reader.readline():
        lines.append(raw.decode(errors="replace").rstrip())
        if lines[-1][:4].isdigit() and lines[-1][4:5] in (" ", ""):
            return lines
    raise EOFError
