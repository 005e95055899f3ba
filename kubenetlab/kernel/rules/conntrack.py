"""conntrack backend: deletion of UDP flows that lead to former endpoints.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c
(6.12).
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kubenetlab.hoststate.address import ADDRESS_MESSAGES, decode_only_address
from kubenetlab.hoststate.netlink.wire import attribute
from kubenetlab.hoststate.rules.conntrack import FlowUpdate, decode
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.netlink.conntrack_entries import (
    CTA_PROTO_DST_PORT,
    AddressPort,
    ConntrackEntry,
    decode_entry,
    deletion,
    entry_messages,
)
from kubenetlab.kernel.rules.backends import RulesError

_VERSIONS: Final = (4, 6)


def open_loader() -> Conntrack:
    """Open the conntrack loader in the current network namespace."""
    return Conntrack()


class Flow(NamedTuple):
    """A tracked UDP flow."""

    message: memoryview
    """The kernel's message about it."""
    entry: ConntrackEntry


class Conntrack:
    """Connection tracking of the namespace in which this object was created."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)
        self._addresses = sockets.open_socket(sockets.NETLINK_ROUTE)

    def run(self, text: str) -> str:
        destinations = decode(text)
        for version in _VERSIONS:
            if updates := [update for update in destinations if update.version == version]:
                for flow in self._stale_flows(version, updates):
                    self._delete(flow)
        return ""

    def listed(self, names: Sequence[OwnedName]) -> object:
        return []

    def text(self) -> str:
        """Return the UDP flows, one line for all with the same destination and server.

        Each connection in a tunnel is a flow of its own, with a source port of its own.
        """
        flows: Counter[str] = Counter()
        for version in _VERSIONS:
            for _, entry in _flows(self._messages(version)):
                (address, port), (server, server_port) = entry.destination, entry.server
                flows[f"udp {address} port {port} answered by {server} port {server_port}"] += 1
        return "".join(
            f"{flow} ({count} flows)\n" if count > 1 else f"{flow}\n"
            for flow, count in sorted(flows.items())
        )

    def close(self) -> None:
        self._socket.close()
        self._addresses.close()

    def _stale_flows(self, version: int, updates: Sequence[FlowUpdate]) -> list[Flow]:
        """Return the UDP flows that do not lead to an endpoint of their destination."""
        by_destination = {(update.address, update.port): update for update in updates}
        flows = list(_flows(_with_ports(self._messages(version), updates)))
        has_node_ports = any(not address for address, _ in by_destination)
        own_addresses = self._own_addresses() if flows and has_node_ports else set()
        return [flow for flow in flows if _is_stale(flow, by_destination, own_addresses)]

    def _messages(self, version: int) -> list[memoryview]:
        try:
            return entry_messages(self._socket, version)
        except OSError as error:
            raise RulesError(f"connection tracking: {error.strerror}") from None

    def _own_addresses(self) -> set[str]:
        """Return the addresses of this namespace, where its node ports listen."""
        return set(
            map(decode_only_address, sockets.request(self._addresses, ADDRESS_MESSAGES.dump))
        )

    def _delete(self, flow: Flow) -> None:
        """Delete a flow; one that does not exist any more is no error."""
        try:
            sockets.request(self._socket, deletion(flow.message))
        except OSError as error:
            if error.errno != errno.ENOENT:
                address, port = flow.entry.destination
                raise RulesError(
                    f"cannot delete a UDP flow to {address} port {port}: {error.strerror}"
                ) from None


def _with_ports(
    bodies: Sequence[memoryview], updates: Sequence[FlowUpdate]
) -> Iterator[memoryview]:
    """Yield the messages that contain the port of an update as a destination.

    Only these are decoded: a lab with DNS clients has hundreds of others.
    """
    ports = {attribute(CTA_PROTO_DST_PORT, update.port.to_bytes(2, "big")) for update in updates}
    pattern = re.compile(b"|".join(map(re.escape, sorted(ports))), re.DOTALL)
    return (body for body in bodies if pattern.search(body))


def _flows(bodies: Iterable[memoryview]) -> Iterator[Flow]:
    """Decode messages about entries; yield those of UDP."""
    for body in bodies:
        entry = decode_entry(body)
        if entry.protocol == "UDP":
            yield Flow(body, entry)


def _is_stale(
    flow: Flow, updates: Mapping[AddressPort, FlowUpdate], own_addresses: Collection[str]
) -> bool:
    """Return True if a flow does not lead to an endpoint of its destination.

    A flow counts as one to a node port if its destination was translated, whatever the address, or
    if it was sent to an address of this namespace before the node port existed.
    """
    destination, server = flow.entry.destination, flow.entry.server
    update = updates.get(destination)
    if update is None and (server != destination or destination[0] in own_addresses):
        update = updates.get(("", destination[1]))
    return update is not None and server not in update.endpoints
