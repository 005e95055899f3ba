"""Listening sockets of built-in programs, opened in the namespaces of their pods."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.lab.runtime.pod_network import KINDS, NetnsSocketFactory

BACKLOG: Final = 1024
IP_PKTINFO: Final = 8
"""Socket option that reports the destination address of a datagram (ip(7)).

Python 3.11 has no constant for it. IPV6_PKTINFO is the same for IPv6 (RFC 3542 §6.1).
"""
_IN_PKTINFO, _IN6_PKTINFO = struct.Struct("=i4s4s"), struct.Struct("=16si")
PKTINFO_SPACE: Final = socket.CMSG_SPACE(_IN6_PKTINFO.size)


def open_listener(
    namespace: NetnsSocketFactory, listener: ListenPort, *, has_ipv6: bool
) -> socket.socket:
    """Open a listening socket in a pod's namespace.

    Raises OSError with agnhost's message if the port cannot be opened.
    """
    is_ipv6, is_datagram = has_ipv6 and "." not in listener.address, listener.protocol == "UDP"
    operation = f"listen {listener.protocol.lower()} :{listener.port}"
    kind, protocol = KINDS[listener.protocol]
    try:
        opened = namespace.socket(kind, protocol, is_ipv6=is_ipv6)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        reason = (
            f"protocol not supported by this kernel; see {listener.protocol} in kubenetlab doctor"
        )
        raise OSError(error.errno, f"{operation}: {reason}") from None
    try:
        if is_ipv6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if not is_datagram:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif is_ipv6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        opened.bind((listener.address, listener.port))
        if not is_datagram:
            opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"{operation}: bind: {(error.strerror or '').lower()}") from None
    return opened


def reply_source(level: int, kind: int, value: bytes) -> tuple[int, int, bytes]:
    """Return the control message that sends a reply from the address a datagram was sent to.

    A node has several addresses, and clients accept replies only from the one they sent to.

    level, kind, value: a received control message with packet information.
    """
    if level == socket.IPPROTO_IPV6:
        return level, kind, _IN6_PKTINFO.pack(_IN6_PKTINFO.unpack(value)[0], 0)
    return level, kind, _IN_PKTINFO.pack(0, _IN_PKTINFO.unpack(value)[1], b"\0" * 4)
