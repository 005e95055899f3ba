"""Netlink sockets and complete replies to requests.

Source: netlink(7); net/netlink/af_netlink.c (6.12).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from kubenetlab.hoststate.netlink.wire import NLMSG_DONE, NLMSG_ERROR, messages

NETLINK_ROUTE: Final = socket.NETLINK_ROUTE
NETLINK_NETFILTER, NETLINK_GENERIC = 12, 16
RECEIVE_BYTES: Final = 64 * 1024
"""Receive buffer size in bytes; the kernel sends no longer datagram."""
_ERROR = struct.Struct("=i")


def open_socket(family: int, flags: int = 0) -> socket.socket:
    """Open a socket of a netlink family; it keeps the current namespace alive."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags, family)


def request(connection: socket.socket, message: bytes) -> list[memoryview]:
    """Send a request and return the bodies of the reply's messages.

    `message` must request a dump or an acknowledgement, which marks the end of the reply.
    Raises OSError if the kernel refuses.
    """
    connection.send(message)
    bodies: list[memoryview] = []
    while True:
        for type_, _, _, body in messages(connection.recv(RECEIVE_BYTES)):
            if type_ == NLMSG_DONE:
                return bodies
            if type_ == NLMSG_ERROR:
                if number := error_number(body):
                    raise OSError(number, os.strerror(number))
                return bodies
            bodies.append(body)


def read_errors(connection: socket.socket) -> int:
    """Read the kernel's replies to requests without NLM_F_ACK; return the first errno, or 0.

    The kernel reports every refused request, and success has no reply. ENOBUFS, when the socket's
    buffer is full, counts as an error, too.

    connection: a socket that does not block.
    """
    first_error = 0
    while True:
        try:
            reply = connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return first_error
        except OSError as error:
            first_error = first_error or error.errno or errno.EIO
            continue
        for type_, _, _, body in messages(reply):
            if type_ == NLMSG_ERROR:
                first_error = first_error or error_number(body)


def error_number(body: memoryview) -> int:
    """Return the errno of an acknowledgement; 0 for success."""
    number: int = _ERROR.unpack_from(body)[0]
    return -number
