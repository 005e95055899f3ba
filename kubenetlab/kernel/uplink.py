"""The machine's end of a lab's uplink: its link, addresses and forwarding.

All functions work in the current network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from kubenetlab import names
from kubenetlab.errors import LabError
from kubenetlab.hoststate.links.link import LOOPBACK
from kubenetlab.hoststate.links.messages import ObservedLink, decode_link, dump_links
from kubenetlab.hoststate.links.requests import change_link, delete_link, new_link
from kubenetlab.hoststate.machine_network import (
    MachineAddress,
    add_address,
    decode_address,
    decode_destinations,
    list_addresses,
    list_routes,
)
from kubenetlab.hoststate.netlink.message_classes import nest
from kubenetlab.hoststate.rules import nftables
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.nftables import open_loader as open_nft

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
    return _index(link) is not None


def free_link(version: int, first: int, prefix_length: int) -> tuple[str, str]:
    """Return the addresses of the machine and of the lab in a subnet that has no route yet.

    first: number of the subnet of LINKS at which the search starts.
    """
    with RouteSocket() as route:
        routed = decode_destinations(route.dump(list_routes(version)))
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


def connect(link: str, peer: str, netns_path: str, addresses: Sequence[str]) -> None:
    """Create a link to `peer` in another namespace and set its addresses.

    netns_path: path of the namespace.
    addresses:  with prefix lengths.
    """
    namespace = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = nest(("IFLA_IFNAME", peer), ("IFLA_NET_NS_FD", namespace))
        _send(f"link {link}", new_link("veth", link, data=[("VETH_INFO_PEER", end)]))
    finally:
        os.close(namespace)
    for name in _SETTINGS:
        (_CONF / f"ipv4/conf/{link}/{name}").write_text("1")
    if any(":" in address for address in addresses):
        # Duplicate address detection would take a second; only the lab is on this link.
        (_CONF / f"ipv6/conf/{link}/accept_dad").write_text("0")
    index = socket.if_nametoindex(link)
    for address in addresses:
        _send(f"address {address} of {link}", add_address(index, address))
    _send(f"link {link}", change_link(index, is_up=True))


def is_connected(link: str, addresses: Sequence[str]) -> bool:
    """Return True if the link is as `connect` configures it.

    It may not be: `connect` was interrupted, or the link was changed.
    """
    state = next((entry for entry in _links() if entry.name == link), None)
    if state is None or not state.is_up:
        return False
    configured = {entry.address for entry in _addresses() if entry.link_index == state.index}
    return configured >= set(addresses) and all(
        _is_set(_CONF / f"ipv4/conf/{link}/{name}") for name in _SETTINGS
    )


def disconnect(link: str) -> None:
    """Delete the link; succeed if it does not exist.

    It may disappear at any moment, together with the lab's end.
    """
    if has_link(link):
        _send(f"link {link}", delete_link(link), tolerated=errno.ENODEV)


def links_without_forwarding() -> list[str]:
    """Return the machine's links that have IPv4 addresses but do not forward packets.

    Loopback and the uplinks of labs are left out.
    """
    with_addresses = {entry.link_index for entry in _addresses(socket.AF_INET)}
    links = [link.name for link in _links() if link.index in with_addresses]
    own = [link for link in links if link != LOOPBACK and not link.startswith(names.MACHINE_LINKS)]
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
    loader = open_nft()
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
    loader = open_nft()
    try:
        text = loader.run_commands("list chains")
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


def _index(link: str) -> int | None:
    """Return the interface index of a link, None if it does not exist."""
    try:
        return socket.if_nametoindex(link)
    except OSError:
        return None


def _links() -> list[ObservedLink]:
    with RouteSocket() as route:
        return [decode_link(body) for body in route.dump(dump_links())]


def _addresses(family: int = 0) -> list[MachineAddress]:
    with RouteSocket() as route:
        return [decode_address(body) for body in route.dump(list_addresses(family))]


def _send(subject: str, request: bytes, *, tolerated: int = 0) -> None:
    """Send a request to the kernel. Raises LabError, unless it is refused with `tolerated`."""
    with RouteSocket() as route:
        for refusal in route.batch([request]):
            if refusal.errno != tolerated:
                raise LabError(
                    f"cannot configure the machine's end of the uplink: {subject}: {refusal}"
                )
