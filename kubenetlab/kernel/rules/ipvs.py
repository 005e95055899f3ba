"""ipvs backend: IPVS by generic netlink, on a socket that stays open.

Source: net/netfilter/ipvs/ip_vs_ctl.c, net/netlink/genetlink.c (6.1).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import msgspec

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.netlink import generic
from kubenetlab.hoststate.netlink.wire import HEADER, NLM_F_ACK, NLM_F_DUMP, NLMSG_ERROR
from kubenetlab.hoststate.netlink.wire import messages as parts_of
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
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError

SERVERS_PER_CHECK, CHECK_INTERVAL_S = 10, 10.0
"""Number of virtual servers compared per call, and pause after all were compared, in seconds.

A virtual server with two real servers takes 0.2 to 0.4 ms."""
_REQUESTS_PER_BATCH: Final = 64
"""Requests per datagram; the socket's buffer has room for as many acknowledgements."""

Server = VirtualServer | RealServer
ServerT = TypeVar("ServerT", bound=Server)
ServerRequest = tuple[ServerT, bytes]
"""A server, and the request about it."""
Encoder = Callable[[int, int, ServerT], bytes]
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
            (reply,) = self._query(generic.family_request(messages.FAMILY))
            self._family = generic.family_number(reply)
        except FileNotFoundError as error:
            self._socket.close()
            raise FileNotFoundError(error.errno, "generic netlink family IPVS not found") from None
        except OSError:
            self._socket.close()
            raise
        self._draining: dict[str, Server] | None = None
        """Virtual servers, or real servers of them, with real servers that have weight 0 and wait
        for their connections to end; None while they are not known."""
        self._desired: tuple[IpvsObject, ...] = ()
        """Servers that should exist."""
        self._comparison = self._compare_servers()

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
        self._comparison = self._compare_servers()
        return ""

    def maintain(self) -> None:
        """Delete draining real servers that have no connections any more."""
        if self._draining is None:
            self._draining = {server.service: server for server in self._services()}
        remaining: dict[str, Server] = {}
        for service, server in self._draining.items():
            draining = [entry for entry in self._destinations(server) if not entry[1]]
            ended = [real for real, _, connections in draining if not connections]
            self._delete(ended, messages.DEL_DEST, messages.destination_request)
            if len(ended) < len(draining):
                remaining[service] = server
        self._draining = remaining

    def has_drift(self) -> bool:
        """Return True if one of the servers compared in this call was changed by others.

        The comparison then pauses for CHECK_INTERVAL_S.
        """
        try:
            for is_same in islice(self._comparison, SERVERS_PER_CHECK):
                if is_same is None:
                    return False
                if not is_same:
                    self._comparison = self._compare_servers(after_s=CHECK_INTERVAL_S)
                    return True
        except OSError:
            self._comparison = self._compare_servers(after_s=CHECK_INTERVAL_S)
            raise
        return False

    def listed(self, names: Sequence[OwnedName]) -> object:
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
        self, servers: Sequence[ServerT], new: int, change: int, encode: Encoder[ServerT]
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
        if self._draining is not None:
            self._draining |= {real.service: real for real in draining}

    def _delete(self, servers: Sequence[ServerT], command: int, encode: Encoder[ServerT]) -> None:
        self._send_all(
            [(obj, encode(self._family, command, obj)) for obj in servers],
            errno.ENOENT,
            errno.ESRCH,
        )

    def _compare_servers(self, after_s: float = 0.0) -> Iterator[bool | None]:
        """Yield for each virtual server whether it is as desired, in an endless loop.

        Yield None during pauses.
        """
        while True:
            rest_until = time.monotonic() + after_s
            while not self._desired or time.monotonic() < rest_until:
                yield None
            reals: dict[str, list[RealServer]] = {}
            for obj in self._desired:
                if isinstance(obj, RealServer):
                    reals.setdefault(obj.service, []).append(obj)
            servers = [obj for obj in self._desired if isinstance(obj, VirtualServer)]
            # Decoded only where the numbers differ: servers that match a mark do not count.
            count = len(servers)
            yield len(self._service_messages()) == count or len(self._services()) == count
            for server in servers:
                yield self._is_as_desired(server, reals.get(server.service, ()))
            after_s = CHECK_INTERVAL_S

    def _is_as_desired(self, server: VirtualServer, reals: Sequence[RealServer]) -> bool:
        try:
            (body,) = self._query(messages.find_service(self._family, server))
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise
            return False
        listed = messages.decode_service(body)
        if listed is None:
            return False
        entry = msgspec.to_builtins(ListedServer(listed, self._destinations(listed)))
        return not any(differences([server, *reals], [entry]))

    def _list(self) -> Iterator[ListedServer]:
        return (ListedServer(server, self._destinations(server)) for server in self._services())

    def _services(self) -> list[VirtualServer]:
        """Return all virtual servers except those that match a mark."""
        servers = map(messages.decode_service, self._service_messages())
        return [server for server in servers if server is not None]

    def _service_messages(self) -> list[memoryview]:
        return self._query(messages.list_services(self._family), NLM_F_DUMP)

    def _destinations(self, server: Server) -> tuple[tuple[RealServer, int, int], ...]:
        """Return the real servers of a virtual server, with weight and number of connections."""
        request = messages.list_destinations(self._family, server)
        return tuple(
            messages.decode_destination(body, server) for body in self._query(request, NLM_F_DUMP)
        )

    def _send_all(
        self, requests: Sequence[ServerRequest[ServerT]], *tolerated: int
    ) -> list[ServerT]:
        """Send requests; return the servers whose requests were refused with a tolerated errno.

        Raises RulesError for any other refusal.
        """
        tolerated_servers: list[ServerT] = []
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
        return sockets.request(self._socket, self._numbered(request, flags))

    def _numbered(self, request: bytes, flags: int) -> bytes:
        self._sequence += 1
        size, type_, before, _, _ = HEADER.unpack_from(request)
        return HEADER.pack(size, type_, before | flags, self._sequence, 0) + request[HEADER.size :]
