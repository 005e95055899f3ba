"""Forwarding of DNS queries to the machine's name servers, like CoreDNS' plugin `forward`.

CoreDNS forwards queries for names outside the cluster if the lab has an uplink.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from kubenetlab.api.config import Network
from kubenetlab.lab.transport import dns_stream

RESOLV_CONFS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
"""Files that list the machine's name servers; the second those that systemd-resolved queries."""
PORT = 53
TIMEOUT_S = 2.0
MAX_MESSAGE_BYTES = 64 * 1024


def name_servers(but_for: Sequence[Network] = ()) -> list[str]:
    """Return the machine's name servers that are reachable from a pod.

    Loopback and link-local addresses are left out. Invalid addresses are ignored, as by libc.

    but_for: ranges of the lab, whose own name server would forward the query again.
    """
    for path in RESOLV_CONFS:
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            continue
        listed = [
            fields[1]
            for line in lines
            if len(fields := line.split()) > 1 and fields[0] == "nameserver"
        ]
        if reachable := [address for address in listed if _is_reachable(address, but_for)]:
            return reachable
    return []


def _is_reachable(text: str, but_for: Sequence[Network]) -> bool:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or any(address in network for network in but_for)
    )


async def forward(query: bytes, *, is_udp: bool, but_for: Sequence[Network] = ()) -> bytes | None:
    """Return the response of the first name server that sends one; None if none does.

    but_for: see `name_servers`.
    """
    for server in name_servers(but_for):
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await _exchange(server, query, is_udp=is_udp)
        except (OSError, TimeoutError):
            continue
        if response[:2] == query[:2]:
            return response
    return None


async def _exchange(server: str, query: bytes, *, is_udp: bool) -> bytes:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    with socket.socket(family, kind | socket.SOCK_NONBLOCK) as connection:
        await loop.sock_connect(connection, (server, PORT))
        if not is_udp:
            return await dns_stream.query(connection, query)
        await loop.sock_sendall(connection, query)
        return await loop.sock_recv(connection, MAX_MESSAGE_BYTES)
