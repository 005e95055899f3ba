"""Connection tracking in a namespace: UDP flows that lead where they should not any more are deleted.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c (6.12).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from kubenetlab.hoststate.address import address_in, dump_addresses
from kubenetlab.hoststate.rules.conntrack import Allowed, decode
from kubenetlab.hoststate.rules.rulesets import Name
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

Place = tuple[str, int]


class Flow(NamedTuple):
    """One UDP flow: where its client sends to, who answers, and how the kernel names it."""

    destination: Place
    answers: Place
    request: bytes
    """The attributes by which it is deleted."""


def open_here() -> Conntrack:
    """Connection tracking of the namespace this process stands in."""
    return Conntrack()


class Conntrack:
    """A netlink socket of the namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)
        self._addresses = sockets.open_socket(sockets.NETLINK_ROUTE)

    def run(self, text: str) -> str:
        wanted = decode(text)
        for version in {allowed.version for allowed in wanted}:
            by_place = {
                (allowed.address, allowed.port): allowed
                for allowed in wanted
                if allowed.version == version
            }
            flows = self.flows(version)
            own = (
                self._own_addresses()
                if flows and any(not address for address, _ in by_place)
                else set()
            )
            for flow in [flow for flow in flows if _is_stale(flow, by_place, own)]:
                self._delete(version, flow)
        return ""

    def listed(self, names: Sequence[Name]) -> Any:
        return []

    def text(self) -> str:
        """The UDP flows: where each goes, and who answers."""
        found = (
            f"udp {flow.destination[0]} port {flow.destination[1]} answered by {flow.answers[0]} port {flow.answers[1]}\n"
            for flow in self._all()
        )
        return "".join(sorted(found))

    def close(self) -> None:
        self._socket.close()
        self._addresses.close()

    def flows(self, version: int) -> list[Flow]:
        """Every UDP flow of an IP version.

        Where nothing at all is tracked nothing is listed: for a list the kernel goes through the tables of all namespaces, which takes it 10 ms.
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
        """Those of this namespace, at which its node ports are."""
        return set(map(address_in, sockets.ask(self._addresses, dump_addresses())))

    def _count(self) -> int:
        """How many flows are tracked in this namespace, of all protocols."""
        (body,) = sockets.ask(
            self._socket, message(_GET_STATS, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))
        )
        return int.from_bytes(attributes(body[_NFGENMSG.size :])[_CTA_STATS_GLOBAL_ENTRIES], "big")

    def _all(self) -> Iterator[Flow]:
        for version in _FAMILIES:
            yield from self.flows(version)

    def _delete(self, version: int, flow: Flow) -> None:
        """One that has just gone by itself is no fault."""
        try:
            sockets.ask(
                self._socket,
                message(
                    _DELETE, NLM_F_ACK, _NFGENMSG.pack(_FAMILIES[version], 0, 0) + flow.request
                ),
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                where = f"{flow.destination[0]} port {flow.destination[1]}"
                raise RulesError(
                    f"a UDP flow to {where} is not to be deleted: {error.strerror}"
                ) from None


def _is_stale(flow: Flow, by_place: dict[Place, Allowed], own: set[str]) -> bool:
    """True when it leads to none of the endpoints of where it goes; to a node port goes what was translated at whatever address, or was sent to
    one of the namespace's own before there was the node port."""
    allowed = by_place.get(flow.destination)
    if allowed is None and (flow.answers != flow.destination or flow.destination[0] in own):
        allowed = by_place.get(("", flow.destination[1]))
    return allowed is not None and flow.answers not in allowed.endpoints


def _flow(body: memoryview, version: int) -> Flow | None:
    found = attributes(body)
    origin, reply = attributes(found[_CTA_TUPLE_ORIG]), attributes(found[_CTA_TUPLE_REPLY])
    protocol = attributes(origin[_CTA_TUPLE_PROTO])
    if protocol[_CTA_PROTO_NUM][0] != socket.IPPROTO_UDP:
        return None
    request = attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, bytes(found[_CTA_TUPLE_ORIG])) + attribute(
        _CTA_ID, bytes(found[_CTA_ID])
    )
    destination = _place(origin, _CTA_IP_DST[version], _CTA_PROTO_DST_PORT)
    return Flow(destination, _place(reply, _CTA_IP_SRC[version], _CTA_PROTO_SRC_PORT), request)


def _place(parts: dict[int, memoryview], address: int, port: int) -> Place:
    ip, protocol = attributes(parts[_CTA_TUPLE_IP]), attributes(parts[_CTA_TUPLE_PROTO])
    return str(ip_address(bytes(ip[address]))), int.from_bytes(protocol[port], "big")
