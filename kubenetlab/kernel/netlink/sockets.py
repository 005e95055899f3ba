"""Netlink: a socket of the namespace it was opened in, and questions that are answered to their end.

Source: netlink(7); net/netlink/af_netlink.c (6.12).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from kubenetlab.hoststate.wire import NLMSG_DONE, NLMSG_ERROR, messages

NETLINK_ROUTE: Final = socket.NETLINK_ROUTE
NETLINK_NETFILTER, NETLINK_GENERIC = 12, 16
RECEIVE_BYTES: Final = 64 * 1024
"""No datagram of the kernel's is longer."""
_ERROR = struct.Struct("=i")


def opened(family: int, flags: int = 0) -> socket.socket:
    """A socket of one netlink family; it keeps its namespace alive."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags, family)


def ask(connection: socket.socket, request: bytes) -> list[memoryview]:
    """The body of each message in the answer, which ends with that of a dump or with an acknowledgement: one of both was asked for.

    Raises OSError where the kernel refuses.
    """
    connection.send(request)
    found: list[memoryview] = []
    while True:
        for type_, _, _, body in messages(connection.recv(RECEIVE_BYTES)):
            if type_ == NLMSG_DONE:
                return found
            if type_ == NLMSG_ERROR:
                if number := refusal(body):
                    raise OSError(number, os.strerror(number))
                return found
            found.append(body)


def refusal(body: memoryview) -> int:
    """The error number in an acknowledgement; 0 when all went well."""
    number: int = _ERROR.unpack_from(body)[0]
    return -number
