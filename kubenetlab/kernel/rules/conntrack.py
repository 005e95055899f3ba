"""conntrack backend: deletion of UDP flows that lead to former endpoints.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c
(6.12).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from kubenetlab.hoststate.address import decode_only_address, dump_addresses
from kubenetlab.hoststate.rules.conntrack import FlowUpdate, decode
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.hoststate.wire import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    attribute,
    attributes,
    message,
)
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError

_GET, _DELETE, _GET_STATS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_GET, _DELETE and _GET_STATS."""
_CTA_STATS_GLOBAL_ENTRIES = 1
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID = 1, 2, 12
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_SRC, _CTA_IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NFGENMSG = struct.Struct("=BBH")

AddressPort = tuple[str, int]
"""Address and port."""


class Flow(NamedTuple):
    """One UDP flow."""

    destination: AddressPort
    """Destination of the client's packets."""
    server: AddressPort
    """Source of the replies: the endpoint."""
    request: bytes
    """Attributes that identify the flow in a request to delete it."""


def open_loader() -> Conntrack:
    """Open the conntrack loader in the current network namespace."""
    return Conntrack()


class Conntrack:
    """Connection tracking of the namespace in which this object was created."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)
        self._addresses = sockets.open_socket(sockets.NETLINK_ROUTE)

    def run(self, text: str) -> str:
        destinations = decode(text)
        for version in {allowed.version for allowed in destinations}:
            by_destination = {
                (allowed.address, allowed.port): allowed
                for allowed in destinations
                if allowed.version == version
            }
            flows = self.flows(version)
            own_addresses = (
                self._own_addresses()
                if flows and any(not address for address, _ in by_destination)
                else set()
            )
            for flow in [flow for flow in flows if _is_stale(flow, by_destination, own_addresses)]:
                self._delete(version, flow)
        return ""

    def listed(self, names: Sequence[OwnedName]) -> Any:
        return []

    def text(self) -> str:
        """Return the UDP flows, one per line."""
        lines = (
            f"udp {flow.destination[0]} port {flow.destination[1]} "
            f"answered by {flow.server[0]} port {flow.server[1]}\n"
            for flow in self._all()
        )
        return "".join(sorted(lines))

    def close(self) -> None:
        self._socket.close()
        self._addresses.close()

    def flows(self, version: int) -> list[Flow]:
        """Return all UDP flows of an IP version.

        If nothing is tracked, no dump is requested: the kernel would walk the tables of all
        namespaces, which takes 10 ms.
        """
        try:
            if not self._count():
                return []
            bodies = sockets.ask(
                self._socket, message(_GET, NLM_F_DUMP, _NFGENMSG.pack(_FAMILIES[version], 0, 0))
            )
        except OSError as error:
            raise RulesError(f"connection tracking: {error.strerror}") from None
        return [
            flow for body in bodies if (flow := _flow(body[_NFGENMSG.size :], version)) is not None
        ]

    def _own_addresses(self) -> set[str]:
        """Return the addresses of this namespace, where its node ports listen."""
        return set(map(decode_only_address, sockets.ask(self._addresses, dump_addresses())))

    def _count(self) -> int:
        """Return the number of tracked flows of all protocols in this namespace."""
        (body,) = sockets.ask(
            self._socket, message(_GET_STATS, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))
        )
        return int.from_bytes(attributes(body[_NFGENMSG.size :])[_CTA_STATS_GLOBAL_ENTRIES], "big")

    def _all(self) -> Iterator[Flow]:
        for version in _FAMILIES:
            yield from self.flows(version)

    def _delete(self, version: int, flow: Flow) -> None:
        """Delete a flow; one that does not exist any more is no error."""
        try:
            sockets.ask(
                self._socket,
                message(
                    _DELETE, NLM_F_ACK, _NFGENMSG.pack(_FAMILIES[version], 0, 0) + flow.request
                ),
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                destination = f"{flow.destination[0]} port {flow.destination[1]}"
                raise RulesError(
                    f"cannot delete a UDP flow to {destination}: {error.strerror}"
                ) from None


def _is_stale(
    flow: Flow, by_destination: dict[AddressPort, FlowUpdate], own_addresses: set[str]
) -> bool:
    """Return True if a flow does not lead to an endpoint of its destination.

    A flow counts as one to a node port if its destination was translated, whatever the address, or
    if it was sent to an address of this namespace before the node port existed.
    """
    allowed = by_destination.get(flow.destination)
    if allowed is None and (
        flow.server != flow.destination or flow.destination[0] in own_addresses
    ):
        allowed = by_destination.get(("", flow.destination[1]))
    return allowed is not None and flow.server not in allowed.endpoints


def _flow(body: memoryview, version: int) -> Flow | None:
    entry = attributes(body)
    origin, reply = attributes(entry[_CTA_TUPLE_ORIG]), attributes(entry[_CTA_TUPLE_REPLY])
    protocol = attributes(origin[_CTA_TUPLE_PROTO])
    if protocol[_CTA_PROTO_NUM][0] != socket.IPPROTO_UDP:
        return None
    request = attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, bytes(entry[_CTA_TUPLE_ORIG])) + attribute(
        _CTA_ID, bytes(entry[_CTA_ID])
    )
    destination = _address_port(origin, _CTA_IP_DST[version], _CTA_PROTO_DST_PORT)
    return Flow(
        destination, _address_port(reply, _CTA_IP_SRC[version], _CTA_PROTO_SRC_PORT), request
    )


def _address_port(parts: dict[int, memoryview], address: int, port: int) -> AddressPort:
    ip, protocol = attributes(parts[_CTA_TUPLE_IP]), attributes(parts[_CTA_TUPLE_PROTO])
    return str(ip_address(bytes(ip[address]))), int.from_bytes(protocol[port], "big")
