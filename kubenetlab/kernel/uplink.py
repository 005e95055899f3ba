"""The machine's side of a lab's uplink, in the network namespace we stand in: a link, its addresses, and whom the machine forwards.

By the program `ip`: it is done once for a lab, and what is typed here is what a user would type.
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
from kubenetlab.hoststate.rules.rulesets import Name
from kubenetlab.kernel.rules.backends import RulesError, open_here

LINKS = {4: ip_network("198.18.0.0/15"), 6: ip_network("fd6b:6e6c::/32")}
"""Where the addresses of links between the machine and labs are from. IPv4: what RFC 2544 keeps for tests, and nobody routes; IPv6: local
ones (RFC 4193)."""
_CONF = Path("/proc/sys/net")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_SETTINGS = ("forwarding", "route_localnet")
"""Of the link, by IPv4."""


def forwards(version: int) -> bool:
    """True where the machine forwards packets of a family already, whoever they are from; False where it does not have that family, or not
    on links that are new."""
    if version == 6 and any(
        _is_set(_CONF / f"ipv6/conf/{name}/disable_ipv6") for name in ("all", "default")
    ):
        return False
    return _is_set(_CONF / f"ipv{version}/conf/all/forwarding")


def _is_set(setting: Path) -> bool:
    return setting.exists() and setting.read_text().strip() == "1"


def has_link(link: str) -> bool:
    """True when the machine has a link of that name."""
    return Path("/sys/class/net", link).exists() or link in _links()


def free_link(version: int, first: int, prefix_length: int) -> tuple[str, str]:
    """(the machine's address, the other end's) of a network that the machine knows nothing of yet, looked for from number `first` on."""
    taken = list(_networks(version))
    networks = LINKS[version]
    size = 2 ** (networks.max_prefixlen - prefix_length)
    count = min(networks.num_addresses // size, 1 << 15)
    for number in range(first, first + count):
        base = networks[(number % count) * size]
        network = ip_network(f"{base}/{prefix_length}")
        if not any(network.overlaps(other) for other in taken):
            return str(network[1]), str(network[2])
    raise LabError(
        f"no network of {networks} is left for a link to the lab: the machine's routes take them all"
    )


def is_listened_at(address: str, port: int, protocol: str, version: int) -> bool:
    """True where a program of the machine has a port: at an address, or with an empty one at any."""
    family, kind = (
        _FAMILIES[version],
        socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM,
    )
    try:
        with socket.socket(family, kind, socket.IPPROTO_SCTP if protocol == "sctp" else 0) as tried:
            if kind == socket.SOCK_STREAM:
                tried.setsockopt(
                    socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                )  # connections that have ended are no matter
            if version == 6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind((address, port))
    except OSError as error:
        return (
            error.errno == errno.EADDRINUSE
        )  # where the machine has no such address, or protocol, nobody listens
    return False


def connect(link: str, other: str, netns: str, addresses: Sequence[str]) -> None:
    """A link from here to `other`, in the namespace of that name in /run/netns. Addresses are given with their prefix lengths."""
    _ip("link", "add", link, "type", "veth", "peer", "name", other, "netns", netns)
    for address in addresses:
        _ip("address", "add", address, "dev", link, *(("nodad",) if ":" in address else ()))
    for name in _SETTINGS:
        (_CONF / f"ipv4/conf/{link}/{name}").write_text("1")
    if any(":" in address for address in addresses):
        (_CONF / f"ipv6/conf/{link}/accept_dad").write_text(
            "0"
        )  # nobody else is on it: it need not wait a second for who has its address
    _ip("link", "set", link, "up")


def is_connected(link: str, addresses: Sequence[str]) -> bool:
    """True where a link is as `connect` makes it: a command may have ended in the middle, or somebody changed it."""
    found = next((entry for entry in _said("address") if entry["ifname"] == link), None)
    if found is None or "UP" not in found["flags"]:
        return False
    there = {f"{entry['local']}/{entry['prefixlen']}" for entry in found.get("addr_info", ())}
    return there >= set(addresses) and all(
        _is_set(_CONF / f"ipv4/conf/{link}/{name}") for name in _SETTINGS
    )


def disconnect(link: str) -> None:
    """Takes the link away, where it is still there; the other end goes with it, and it goes with that: the lab's end may be first."""
    if not has_link(link):
        return
    try:
        _ip("link", "delete", link)
    except LabError:
        if has_link(link):
            raise


def not_forwarding() -> list[str]:
    """The machine's own links with IPv4 addresses from which nothing is forwarded; those to labs are the labs'."""
    with_addresses = [
        link["ifname"]
        for link in _said("-4", "address")
        if link.get("addr_info") and "LOOPBACK" not in link["flags"]
    ]
    own = [link for link in with_addresses if not link.startswith(names.MACHINE_LINKS)]
    return [link for link in own if _forwarding(link).read_text().strip() == "0"]


def forward(link: str, value: str) -> None:
    """Has what comes in by a link forwarded, `1`, or not, `0`: but where somebody has the whole machine forward by now. A link that has
    gone needs nothing."""
    if value == "0" and forwards(4):
        return
    try:
        _forwarding(link).write_text(value)
    except FileNotFoundError:
        pass


def load(objects: Sequence[nftables.NftObject], former: Sequence[Name]) -> None:
    """Makes tables anew, in place of those with the names of `former`, which are ours."""
    loader = open_here("nftables")
    try:
        loader.run(nftables.replacement(objects, former))
    except RulesError as error:
        raise LabError(f"the machine's side of the uplink: nft: {error}") from None
    finally:
        loader.close()


def dropping() -> list[str]:
    """Chains of the machine that drop what is forwarded unless somebody accepts it, as `ip filter FORWARD`: Docker makes such a one."""
    loader = open_here("nftables")
    try:
        text = loader.run("list chains")
    finally:
        loader.close()
    table = chain = ""
    found = []
    for line in text.splitlines():
        match line.split():
            case ["table", family, name, "{"]:
                table = f"{family} {name}"
            case ["chain", name, "{"]:
                chain = name
            case ["type", "filter", "hook", "forward", *rest] if rest[-2:] == ["policy", "drop;"]:
                found.append(f"{table} {chain}")
    return found


def _forwarding(link: str) -> Path:
    return _CONF / f"ipv4/conf/{link}/forwarding"


def _networks(version: int) -> Iterator[IPv4Network | IPv6Network]:
    """Where the machine sends packets, but for its default routes."""
    for route in _said(f"-{version}", "route", "show", "table", "all"):
        destination = route["dst"]
        if destination != "default":
            yield ip_network(destination, strict=False)


def _links() -> list[str]:
    return [link["ifname"] for link in _said("link")]


def _said(*words: str) -> Any:
    return json.loads(_ip("-j", *words) or "[]")


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(
            f"the machine's side of the uplink: ip {' '.join(words)}: {done.stderr.strip()}"
        )
    return done.stdout
