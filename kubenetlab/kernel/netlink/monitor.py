"""A monitor: one socket, in the lab's own empty namespace, that hears what the kernel says of changes in all namespaces of the lab.

    RTM_NEWNSID (pause's pid → a number of that namespace here) … then RTM_NEWLINK, RTM_DELROUTE … with that number beside it

A namespace's number is the pid of its pause process. The socket keeps alive nothing but the namespace it is in.
Source: netlink(7) NETLINK_LISTEN_ALL_NSID; net/netlink/af_netlink.c do_one_broadcast(), net/core/net_namespace.c (6.12).
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final

from kubenetlab.hoststate.neighbor import NUD_PERMANENT
from kubenetlab.hoststate.netlink_events import NetlinkEvent
from kubenetlab.hoststate.wire import RTM_NEWNEIGH, attribute, message, messages, number
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.netlink.rtnetlink import SOL_NETLINK, RouteSocket
from kubenetlab.kernel.netlink.sockets import RECEIVE_BYTES

RTM_NEWNSID = 88
_NETNSA_NSID, _NETNSA_PID = 1, 2
_NETLINK_ADD_MEMBERSHIP, _NETLINK_LISTEN_ALL_NSID = 1, 8
_GROUPS: Final = {
    "RTNLGRP_LINK": 1,
    "RTNLGRP_NEIGH": 3,
    "RTNLGRP_IPV4_IFADDR": 5,
    "RTNLGRP_IPV4_ROUTE": 7,
    "RTNLGRP_IPV6_IFADDR": 9,
    "RTNLGRP_IPV6_ROUTE": 11,
    "RTNLGRP_IPV4_NETCONF": 24,
    "RTNLGRP_IPV6_NETCONF": 25,
    "RTNLGRP_NEXTHOP": 32,
}
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
_BUFFER_BYTES = 8 * 1024 * 1024
"""A notice takes about 1 kB of it, and thousands come at once when a lab grows."""
_NSID = struct.Struct("=i")


class Monitor:
    """Hears from now on of the namespaces that are given to `follow`."""

    def __init__(self) -> None:
        """Raises PermissionError without CAP_NET_BROADCAST, which Linux asks of those who hear of more than one namespace."""
        self._socket = sockets.opened(sockets.NETLINK_ROUTE, socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES
            )  # as much of it as the machine allows
        _attach_filter(self._socket)
        self._socket.bind((0, 0))  # who has no port number is passed over
        self._socket.setsockopt(SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        for group in _GROUPS.values():
            self._socket.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def follow(self, pids: Iterable[int]) -> None:
        """Has the kernel tell of the namespaces of pause processes, too. To follow one twice is no fault; nor is one that has died."""
        requests = [
            message(
                RTM_NEWNSID,
                0,
                bytes(4) + attribute(_NETNSA_NSID, _NSID.pack(pid)) + number(_NETNSA_PID, pid),
            )
            for pid in pids
        ]
        if requests:
            with RouteSocket() as route:
                route.batch(requests)

    def read(self) -> tuple[dict[int, list[NetlinkEvent]], bool]:
        """What has been told since the last time, by the pid of the namespace's pause process; and whether something was lost."""
        told: dict[int, list[NetlinkEvent]] = {}
        is_lost = False
        while True:
            try:
                data, beside, _, _ = self._socket.recvmsg(RECEIVE_BYTES, 64)
            except BlockingIOError:
                return told, is_lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_lost = True
                continue
            pid = next(
                (
                    _NSID.unpack(value)[0]
                    for _, type_, value in beside
                    if type_ == _NETLINK_LISTEN_ALL_NSID
                ),
                0,
            )
            if pid > 0:  # else it is of the namespace that we are in
                told.setdefault(pid, []).extend(
                    NetlinkEvent(type_, bytes(body)) for type_, _, _, body in messages(data)
                )

    def close(self) -> None:
        self._socket.close()


def _attach_filter(monitor: socket.socket) -> None:
    """Keeps what ARP learns and forgets from waking us: of new neighbours only permanent ones pass.

    Source: linux/filter.h; a classic filter sees a message's bytes in network order.
    """
    program = [
        _load_half(4),  # nlmsghdr.type
        _jump_if_equal(_swapped(RTM_NEWNEIGH), then=0, otherwise=3),
        _load_half(16 + 8),  # ndmsg.state
        _jump_if_equal(_swapped(NUD_PERMANENT), then=1, otherwise=0),
        _return(0),
        _return(0xFFFFFFFF),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    monitor.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("@HP", len(program), ctypes.addressof(code)),
    )


def _load_half(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x28, 0, 0, offset)


def _return(length: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, length)


def _jump_if_equal(value: int, then: int, otherwise: int) -> bytes:
    return struct.pack("=HBBI", 0x15, then, otherwise, value)


def _swapped(value: int) -> int:
    """A 16-bit number of the host's, as a filter reads it."""
    return int.from_bytes(value.to_bytes(2, sys.byteorder), "big")
