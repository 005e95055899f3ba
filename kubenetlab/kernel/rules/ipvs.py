"""ipvs backend: IPVS by generic netlink, on a socket that stays open.

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
    decode_changes,
    differences,
    ipvsadm_listing,
    servers_after,
    with_removals,
)
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.hoststate.wire import HEADER, NLM_F_ACK, NLM_F_DUMP, NLMSG_ERROR
from kubenetlab.hoststate.wire import messages as parts_of
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError

CHECK_INTERVAL_S: Final = 10.0
"""Time between two checks for changes made by others, in seconds."""
_REQUESTS_PER_BATCH: Final = 64
"""Requests per datagram; the socket's buffer has room for as many acknowledgements."""

Server = VirtualServer | RealServer
ServerRequest = tuple[Server, bytes]
"""A server, and the request about it."""
Encoder = Callable[[int, int, Any], bytes]
"""Function that encodes a request from the family's number, a command and a server."""


def open_loader() -> Ipvs:
    """Open the IPVS loader in the current network namespace.

    Raises RequirementError if the kernel has no IPVS.
    """
    try:
        return Ipvs()
    except OSError as error:
        raise RequirementError(
            f"this kernel has no IPVS ({error.strerror}): "
            "run modprobe ip_vs, or use a kernel with CONFIG_IP_VS"
        ) from None


class Ipvs:
    """Virtual servers of the namespace in which this object was created."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_GENERIC)
        self._sequence = 0
        try:
            self._family = messages.family_number(self._query(messages.family_request())[0])
        except OSError:
            self._socket.close()
            raise
        self._has_draining = True
        """True while real servers may exist that have weight 0 and wait for their connections to
        end."""
        self._desired: tuple[IpvsObject, ...] = ()
        """Servers that should exist."""
        self._next_check_at = 0.0

    def run(self, text: str) -> str:
        changes = decode_changes(text)
        self._desired = servers_after(self._desired, changes)
        if changes.is_anew:
            changes = with_removals(changes, self._list())
        self._create_or_update(
            changes.servers, messages.NEW_SERVICE, messages.SET_SERVICE, messages.service_request
        )
        self._create_or_update(
            changes.reals, messages.NEW_DEST, messages.SET_DEST, messages.destination_request
        )
        self._drain(changes.leaving)
        self._delete(changes.gone, messages.DEL_SERVICE, messages.service_removal)
        return ""

    def maintain(self) -> None:
        """Delete draining real servers that have no connections any more."""
        if self._has_draining:
            draining = [
                (real, connections)
                for listed in self._list()
                for real, weight, connections in listed.reals
                if not weight
            ]
            self._delete(
                [real for real, connections in draining if not connections],
                messages.DEL_DEST,
                messages.destination_request,
            )
            self._has_draining = any(connections for _, connections in draining)

    def has_drift(self) -> bool:
        if not self._desired or time.monotonic() < self._next_check_at:
            return False
        self._next_check_at = time.monotonic() + CHECK_INTERVAL_S
        return any(differences(self._desired, self.listed(())))

    def listed(self, names: Sequence[OwnedName]) -> Any:
        return msgspec.to_builtins(list(self._list()))

    def text(self) -> str:
        return ipvsadm_listing(
            obj
            for listed in self._list()
            for obj in (listed.server, *(real for real, _, _ in listed.reals))
        )

    def close(self) -> None:
        self._socket.close()

    def _create_or_update(
        self, servers: Sequence[Any], new: int, change: int, encode: Encoder
    ) -> None:
        """Create servers; update those that exist already."""
        existing = self._send_all(
            [(obj, encode(self._family, new, obj)) for obj in servers], errno.EEXIST
        )
        self._send_all([(obj, encode(self._family, change, obj)) for obj in existing])

    def _drain(self, leaving: Iterable[RealServer]) -> None:
        """Send no new connections to these real servers.

        UDP servers are deleted at once, because UDP has no end of a connection to wait for.
        """
        servers = list(leaving)
        self._delete(
            [real for real in servers if real.protocol == "udp"],
            messages.DEL_DEST,
            messages.destination_request,
        )
        draining = [real for real in servers if real.protocol != "udp"]
        requests = [
            (real, messages.destination_request(self._family, messages.SET_DEST, real, weight=0))
            for real in draining
        ]
        self._send_all(requests, errno.ENOENT, errno.ESRCH)
        self._has_draining |= bool(draining)

    def _delete(self, servers: Sequence[Any], command: int, encode: Encoder) -> None:
        self._send_all(
            [(obj, encode(self._family, command, obj)) for obj in servers],
            errno.ENOENT,
            errno.ESRCH,
        )

    def _list(self) -> Iterator[ListedServer]:
        servers = [
            messages.decode_service(body)
            for body in self._query(messages.list_services(self._family), NLM_F_DUMP)
        ]
        for server in servers:
            if server is not None:
                request = messages.list_destinations(self._family, server)
                yield ListedServer(
                    server,
                    tuple(
                        messages.decode_destination(body, server)
                        for body in self._query(request, NLM_F_DUMP)
                    ),
                )

    def _send_all(self, requests: Sequence[ServerRequest], *tolerated: int) -> list[Server]:
        """Send requests; return the servers whose requests were refused with a tolerated errno.

        Raises RulesError for any other refusal.
        """
        tolerated_servers: list[Server] = []
        for start in range(0, len(requests), _REQUESTS_PER_BATCH):
            batch = requests[start : start + _REQUESTS_PER_BATCH]
            first = self._sequence + 1
            self._socket.send(b"".join(self._numbered(request, NLM_F_ACK) for _, request in batch))
            refused = {
                sequence - first: number for sequence, number in self._read_refusals(len(batch))
            }
            for index, number in sorted(refused.items()):
                if number not in tolerated:
                    raise RulesError(f"{os.strerror(number)}\n{batch[index][0]}")
                tolerated_servers.append(batch[index][0])
        return tolerated_servers

    def _read_refusals(self, count: int) -> Iterator[tuple[int, int]]:
        """Read `count` acknowledgements; yield (sequence number, errno) of refused requests."""
        while count:
            for type_, _, sequence, body in parts_of(self._socket.recv(sockets.RECEIVE_BYTES)):
                if type_ == NLMSG_ERROR:
                    count -= 1
                    if number := sockets.error_number(body):
                        yield sequence, number

    def _query(self, request: bytes, flags: int = NLM_F_ACK) -> list[memoryview]:
        return sockets.ask(self._socket, self._numbered(request, flags))

    def _numbered(self, request: bytes, flags: int) -> bytes:
        self._sequence += 1
        size, type_, before, _, _ = HEADER.unpack_from(request)
        return HEADER.pack(size, type_, before | flags, self._sequence, 0) + request[HEADER.size :]
