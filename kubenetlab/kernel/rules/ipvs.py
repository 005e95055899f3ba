"""IPVS in a namespace, by generic netlink, on a socket that is kept.

Source: net/netfilter/ipvs/ip_vs_ctl.c, net/netlink/genetlink.c (6.1).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules import ipvs_messages as messages
from kubenetlab.hoststate.rules.ipvs import (
    IpvsObject,
    ListedServer,
    RealServer,
    VirtualServer,
    against,
    decode_orders,
    differences,
    followed,
    told,
)
from kubenetlab.hoststate.rules.rulesets import Name
from kubenetlab.hoststate.wire import HEADER, NLM_F_ACK, NLM_F_DUMP, NLMSG_ERROR
from kubenetlab.hoststate.wire import messages as parts_of
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError

REST_S: Final = 10.0
"""How often it is looked whether the servers are as they were told."""
_AT_A_TIME: Final = 64
"""Requests that are sent together: as many answers are kept for us."""

Wanted = VirtualServer | RealServer
Asked = tuple[Wanted, bytes]
"""A server, and the request about it."""


def open_here() -> Ipvs:
    """IPVS of the namespace this process stands in. Raises RequirementError where the kernel has none."""
    try:
        return Ipvs()
    except OSError as error:
        raise RequirementError(
            f"this kernel has no IPVS ({error.strerror}): modprobe ip_vs, or a kernel with CONFIG_IP_VS"
        ) from None


class Ipvs:
    """The virtual servers of the namespace in which this object was made."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_GENERIC)
        self._sequence = 0
        try:
            self._family = messages.family_number(self._ask(messages.ask_for_family())[0])
        except OSError:
            self._socket.close()
            raise
        self._is_awaited = True
        """True while there may be real servers that only wait for the end of their connections."""
        self._told: tuple[IpvsObject, ...] = ()
        """The servers that should be there."""
        self._look_at = 0.0

    def run(self, text: str) -> str:
        orders = decode_orders(text)
        self._told = followed(self._told, orders)
        if orders.is_anew:
            orders = against(orders, self._list())
        self._make(orders.servers, messages.NEW_SERVICE, messages.SET_SERVICE, messages.service)
        self._make(orders.reals, messages.NEW_DEST, messages.SET_DEST, messages.destination)
        self._part_from(orders.leaving)
        self._go(orders.gone, messages.DEL_SERVICE, messages.which)
        return ""

    def tend(self) -> None:
        """Real servers that have no connections any more go."""
        if self._is_awaited:
            waiting = [
                (real, connections)
                for one in self._list()
                for real, weight, connections in one.reals
                if not weight
            ]
            self._go(
                [real for real, connections in waiting if not connections],
                messages.DEL_DEST,
                messages.destination,
            )
            self._is_awaited = any(connections for _, connections in waiting)

    def was_touched(self) -> bool:
        if not self._told or time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + REST_S
        return any(differences(self._told, self.listed(())))

    def listed(self, names: Sequence[Name]) -> Any:
        return msgspec.to_builtins(list(self._list()))

    def text(self) -> str:
        return told(
            obj for one in self._list() for obj in (one.server, *(real for real, _, _ in one.reals))
        )

    def close(self) -> None:
        self._socket.close()

    def _make(
        self, wanted: Sequence[Any], new: int, change: int, encode: Callable[[Any], bytes]
    ) -> None:
        """Each as it should be, whether or not it is there."""
        there = self._all([(obj, self._request(new, encode(obj))) for obj in wanted], errno.EEXIST)
        self._all([(obj, self._request(change, encode(obj))) for obj in there])

    def _part_from(self, leaving: Iterable[RealServer]) -> None:
        """No new connection goes there. What is asked by UDP has no end that one could wait for."""
        everybody = list(leaving)
        self._go(
            [real for real in everybody if real.protocol == "udp"],
            messages.DEL_DEST,
            messages.destination,
        )
        waiting = [real for real in everybody if real.protocol != "udp"]
        quiet = [
            (real, self._request(messages.SET_DEST, messages.destination(real, weight=0)))
            for real in waiting
        ]
        self._all(quiet, errno.ENOENT, errno.ESRCH)
        self._is_awaited |= bool(waiting)

    def _go(self, gone: Sequence[Any], command: int, encode: Callable[[Any], bytes]) -> None:
        self._all(
            [(obj, self._request(command, encode(obj))) for obj in gone], errno.ENOENT, errno.ESRCH
        )

    def _list(self) -> Iterator[ListedServer]:
        servers = [
            messages.decode_service(body)
            for body in self._ask(self._request(messages.GET_SERVICE), NLM_F_DUMP)
        ]
        for server in servers:
            if server is not None:
                request = self._request(messages.GET_DEST, messages.which(server))
                yield ListedServer(
                    server,
                    tuple(
                        messages.decode_destination(body, server)
                        for body in self._ask(request, NLM_F_DUMP)
                    ),
                )

    def _request(self, command: int, body: bytes = b"") -> bytes:
        return messages.request(self._family, command, body)

    def _all(self, asked: Sequence[Asked], *excused: int) -> list[Wanted]:
        """Has the kernel do all of it; what it refuses for an excused reason is handed back. Raises RulesError at another refusal."""
        found: list[Wanted] = []
        for start in range(0, len(asked), _AT_A_TIME):
            some = asked[start : start + _AT_A_TIME]
            first = self._sequence + 1
            self._socket.send(b"".join(self._numbered(request, NLM_F_ACK) for _, request in some))
            refused = {
                sequence - first: number for sequence, number in self._acknowledged(len(some))
            }
            for place, number in sorted(refused.items()):
                if number not in excused:
                    raise RulesError(f"{os.strerror(number)}\n{some[place][0]}")
                found.append(some[place][0])
        return found

    def _acknowledged(self, count: int) -> Iterator[tuple[int, int]]:
        """(sequence number, errno) of those of so many requests that were refused."""
        while count:
            for type_, _, sequence, body in parts_of(self._socket.recv(sockets.RECEIVE_BYTES)):
                if type_ == NLMSG_ERROR:
                    count -= 1
                    if number := sockets.error_number(body):
                        yield sequence, number

    def _ask(self, request: bytes, flags: int = NLM_F_ACK) -> list[memoryview]:
        return sockets.ask(self._socket, self._numbered(request, flags))

    def _numbered(self, request: bytes, flags: int) -> bytes:
        self._sequence += 1
        size, type_, before, _, _ = HEADER.unpack_from(request)
        return HEADER.pack(size, type_, before | flags, self._sequence, 0) + request[HEADER.size :]
