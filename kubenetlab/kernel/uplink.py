"""The machine's end of a lab's uplink: its link, addresses and forwarding.

All functions work in the current network namespace. They run the program `ip`: an uplink is set up
once per lab, and these are the commands that a user would type.
"""

from __future__ import annotations

import errno
import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from kubenetlab import names
from kubenetlab.errors import LabError
from kubenetlab.hoststate.rules import nftables
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.rules.backends import RulesError, open_loader

LINKS = {4: ip_network("198.18.0.0/15"), 6: ip_network("fd6b:6e6c::/32")}
"""Address ranges for links between the machine and labs.

IPv4: the range of RFC 2544 for benchmarks, which is not routed. IPv6: a unique local prefix (RFC
4193)."""
_CONF = Path("/proc/sys/net")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_SETTINGS = ("forwarding", "route_localnet")
"""IPv4 sysctls that are enabled for the machine's end of the link."""


def forwards(version: int) -> bool:
    """Return True if the machine already forwards packets of an IP version between all links.

    Return False if the machine does not have the family, or disables it on new links.
    """
    if version == 6 and any(
        _is_set(_CONF / f"ipv6/conf/{name}/disable_ipv6") for name in ("all", "default")
    ):
        return False
    return _is_set(_CONF / f"ipv{version}/conf/all/forwarding")


def _is_set(setting: Path) -> bool:
    return setting.exists() and setting.read_text().strip() == "1"


def has_link(link: str) -> bool:
    """Return True if the machine has a link of this name."""
    return Path("/sys/class/net", link).exists() or link in _links()


def free_link(version: int, first: int, prefix_length: int) -> tuple[str, str]:
    """Return the addresses of the machine and of the lab in a subnet that has no route yet.

    first: number of the subnet of LINKS at which the search starts.
    """
    routed = list(_networks(version))
    pool = LINKS[version]
    size = 2 ** (pool.max_prefixlen - prefix_length)
    count = min(pool.num_addresses // size, 1 << 15)
    for number in range(first, first + count):
        base = pool[(number % count) * size]
        network = ip_network(f"{base}/{prefix_length}")
        if not any(network.overlaps(other) for other in routed):
            return str(network[1]), str(network[2])
    raise LabError(
        f"no free subnet in {pool} for the uplink: the machine's routes cover all of them"
    )


def is_port_in_use(address: str, port: int, protocol: str, version: int) -> bool:
    """Return True if a program of the machine uses a port.

    address: an address of the machine; empty: any.
    """
    family, kind = (
        _FAMILIES[version],
        socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM,
    )
    try:
        with socket.socket(family, kind, socket.IPPROTO_SCTP if protocol == "sctp" else 0) as probe:
            if kind == socket.SOCK_STREAM:
                # Connections in TIME_WAIT do not use the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if version == 6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as error:
        # Other errors: the machine does not have the address or the protocol.
        return error.errno == errno.EADDRINUSE
    return False


def connect(link: str, peer: str, netns: str, addresses: Sequence[str]) -> None:
    """Create a link to `peer` in a namespace of /run/netns and set its addresses.

    addresses: with prefix lengths.
    """
    _ip("link", "add", link, "type", "veth", "peer", "name", peer, "netns", netns)
    for address in addresses:
        _ip("address", "add", address, "dev", link, *(("nodad",) if ":" in address else ()))
    for name in _SETTINGS:
        (_CONF / f"ipv4/conf/{link}/{name}").write_text("1")
    if any(":" in address for address in addresses):
        # Duplicate address detection would take a second; only the lab is on this link.
        (_CONF / f"ipv6/conf/{link}/accept_dad").write_text("0")
    _ip("link", "set", link, "up")


def is_connected(link: str, addresses: Sequence[str]) -> bool:
    """Return True if the link is as `connect` configures it.

    It may not be: `connect` was interrupted, or the link was changed.
    """
    link_state = next((entry for entry in _ip_json("address") if entry["ifname"] == link), None)
    if link_state is None or "UP" not in link_state["flags"]:
        return False
    configured = {
        f"{entry['local']}/{entry['prefixlen']}" for entry in link_state.get("addr_info", ())
    }
    return configured >= set(addresses) and all(
        _is_set(_CONF / f"ipv4/conf/{link}/{name}") for name in _SETTINGS
    )


def disconnect(link: str) -> None:
    """Delete the link; succeed if it does not exist.

    It may disappear at any moment, together with the lab's end.
    """
    if not has_link(link):
        return
    try:
        _ip("link", "delete", link)
    except LabError:
        if has_link(link):
            raise


def links_without_forwarding() -> list[str]:
    """Return the machine's links that have IPv4 addresses but do not forward packets.

    Loopback and the uplinks of labs are left out.
    """
    with_addresses = [
        link["ifname"]
        for link in _ip_json("-4", "address")
        if link.get("addr_info") and "LOOPBACK" not in link["flags"]
    ]
    own = [link for link in with_addresses if not link.startswith(names.MACHINE_LINKS)]
    return [link for link in own if _forwarding(link).read_text().strip() == "0"]


def forward(link: str, value: str) -> None:
    """Enable (`1`) or disable (`0`) IPv4 forwarding of packets that arrive on a link.

    Do nothing if the link is gone, or to disable it while the whole machine forwards.
    """
    if value == "0" and forwards(4):
        return
    try:
        _forwarding(link).write_text(value)
    except FileNotFoundError:
        pass


def load(objects: Sequence[nftables.NftObject], former: Sequence[OwnedName]) -> None:
    """Replace the tables named in `former`, which belong to the lab, by these."""
    loader = open_loader("nftables")
    try:
        loader.run(nftables.replacement(objects, former))
    except RulesError as error:
        raise LabError(f"cannot configure the machine's end of the uplink: nft: {error}") from None
    finally:
        loader.close()


def dropping_chains() -> list[str]:
    """Return the machine's chains that drop forwarded packets by default.

    Example: `ip filter FORWARD`, as created by Docker.
    """
    loader = open_loader("nftables")
    try:
        text = loader.run("list chains")
    finally:
        loader.close()
    table = chain = ""
    chains = []
    for line in text.splitlines():
        match line.split():
            case ["table", family, name, "{"]:
                table = f"{family} {name}"
            case ["chain", name, "{"]:
                chain = name
            case ["type", "filter", "hook", "forward", *rest] if rest[-2:] == ["policy", "drop;"]:
                chains.append(f"{table} {chain}")
    return chains


def _forwarding(link: str) -> Path:
    return _CONF / f"ipv4/conf/{link}/forwarding"


def _networks(version: int) -> Iterator[IPv4Network | IPv6Network]:
    """Yield the destinations of the machine's routes, except default routes."""
    for route in _ip_json(f"-{version}", "route", "show", "table", "all"):
        destination = route["dst"]
        if destination != "default":
            yield ip_network(destination, strict=False)


def _links() -> list[str]:
    return [link["ifname"] for link in _ip_json("link")]


def _ip_json(*arguments: str) -> Any:
    return json.loads(_ip("-j", *arguments) or "[]")


def _ip(*arguments: str) -> str:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(
            "cannot configure the machine's end of the uplink: "
            f"ip {' '.join(arguments)}: {result.stderr.strip()}"
        )
    return result.stdout
