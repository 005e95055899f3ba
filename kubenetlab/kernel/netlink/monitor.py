"""Monitor: one socket for the notifications of all namespaces of a lab.

The socket is in the lab's own empty namespace, the only one that it keeps alive. Each namespace
gets an ID there, which is the pid of its pause process:

    RTM_NEWNSID (pid → ID) … then RTM_NEWLINK, RTM_DELROUTE … with the ID as ancillary data

Source: netlink(7) NETLINK_LISTEN_ALL_NSID; net/netlink/af_netlink.c do_one_broadcast(),
net/core/net_namespace.c (6.12).
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
from kubenetlab.hoststate.netlink.wire import RTM_NEWNEIGH, attribute, message, messages, number
from kubenetlab.hoststate.netlink_events import NetlinkEvent
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
    "RTNLGRP_IPV4_RULE": 8,
    "RTNLGRP_IPV6_IFADDR": 9,
    "RTNLGRP_IPV6_ROUTE": 11,
    "RTNLGRP_IPV6_RULE": 19,
    "RTNLGRP_IPV4_NETCONF": 24,
    "RTNLGRP_IPV6_NETCONF": 25,
    "RTNLGRP_NEXTHOP": 32,
}
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
_BUFFER_BYTES = 8 * 1024 * 1024
"""Size of the receive buffer: a notification takes about 1 kB, and a growing lab causes
thousands."""
_NSID = struct.Struct("=i")


class Monitor:
    """Receiver of the notifications of the namespaces given to `follow`."""

    def __init__(self) -> None:
        """Subscribe to notifications.

        Raises PermissionError without CAP_NET_BROADCAST, which Linux requires to listen to several
        namespaces.
        """
        self._socket = sockets.open_socket(sockets.NETLINK_ROUTE, socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            # Without CAP_NET_ADMIN of the machine: as much as net.core.rmem_max allows.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        _attach_filter(self._socket)
        self._socket.bind((0, 0))  # the kernel skips sockets without a port number
        self._socket.setsockopt(SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        for group in _GROUPS.values():
            self._socket.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def follow(self, pids: Iterable[int]) -> None:
        """Receive notifications of the namespaces of these pause processes, too.

        Pids that are followed already or have exited are no error.
        """
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
        """Return the events since the last call by pid, and whether any were lost (ENOBUFS)."""
        events: dict[int, list[NetlinkEvent]] = {}
        is_lost = False
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(RECEIVE_BYTES, 64)
            except BlockingIOError:
                return events, is_lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_lost = True
                continue
            pid = next(
                (
                    _NSID.unpack(value)[0]
                    for _, type_, value in ancillary
                    if type_ == _NETLINK_LISTEN_ALL_NSID
                ),
                0,
            )
            if pid > 0:  # otherwise the notification is of this socket's own namespace
                events.setdefault(pid, []).extend(
                    NetlinkEvent(type_, bytes(body)) for type_, _, _, body in messages(data)
                )

    def close(self) -> None:
        self._socket.close()


def _attach_filter(monitor: socket.socket) -> None:
    """Filter out what the kernel learns by ARP: only permanent new neighbours pass.

    Source: linux/filter.h. A classic BPF filter reads a message's bytes in network order.
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
    """Return a 16-bit number in host order as a filter reads it."""
    return int.from_bytes(value.to_bytes(2, sys.byteorder), "big")
