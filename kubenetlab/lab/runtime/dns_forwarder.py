"""Names outside the cluster: with an uplink, CoreDNS asks the machine's own name servers, as its plugin `forward` does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from kubenetlab.api.config import Network
from kubenetlab.lab.transport import dns_stream

PLACES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
"""Where the machine names its servers; the second is where systemd-resolved keeps those that it asks itself."""
PORT = 53
TIMEOUT_S = 2.0
MAX_MESSAGE_BYTES = 64 * 1024


def name_servers(but_for: Sequence[Network] = ()) -> list[str]:
    """The machine's, as far as they can be reached from elsewhere: the machine's loopback is not this namespace's, and what the ranges
    `but_for` have is the lab's own, which asks us. What is no address is passed over, as libc does.
    """
    for place in PLACES:
        try:
            lines = Path(place).read_text(errors="replace").splitlines()
        except OSError:
            continue
        given = [
            words[1]
            for line in lines
            if len(words := line.split()) > 1 and words[0] == "nameserver"
        ]
        if found := [address for address in given if _is_elsewhere(address, but_for)]:
            return found
    return []


def _is_elsewhere(text: str, but_for: Sequence[Network]) -> bool:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or any(address in network for network in but_for)
    )


async def asked(question: bytes, *, is_udp: bool, but_for: Sequence[Network] = ()) -> bytes | None:
    """The answer of the first server that has one, as it came; None when none answers. See `name_servers`."""
    for server in name_servers(but_for):
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await _exchange(server, question, is_udp=is_udp)
        except (OSError, TimeoutError):
            continue
        if reply[:2] == question[:2]:
            return reply
    return None


async def _exchange(server: str, question: bytes, *, is_udp: bool) -> bytes:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    with socket.socket(family, kind | socket.SOCK_NONBLOCK) as connection:
        await loop.sock_connect(connection, (server, PORT))
        if not is_udp:
            return await dns_stream.ask(connection, question)
        await loop.sock_sendall(connection, question)
        return await loop.sock_recv(connection, MAX_MESSAGE_BYTES)
