"""Generic netlink messages of IPVS.

message := nlmsghdr (16 bytes) | genlmsghdr (u8 command, u8 version, u16 reserved) | attributes
Source: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c (6.1);
include/uapi/linux/genetlink.h.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final

from kubenetlab.hoststate.ip import AF_INET6, FAMILY_OF_VERSION, as_address
from kubenetlab.hoststate.rules.ipvs import SOURCE_HASH, RealServer, VirtualServer
from kubenetlab.hoststate.wire import (
    Attributes,
    as_number,
    as_string,
    attribute,
    attributes,
    message,
    nested,
    number,
    string,
)

GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
FAMILY: Final = "IPVS"

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(
    1, 9
)
_ATTR_SERVICE, _ATTR_DEST = 1, 2
_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT, _SVC_SCHED, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK = (
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
)
(
    _DEST_ADDR,
    _DEST_PORT,
    _DEST_METHOD,
    _DEST_WEIGHT,
    _DEST_UPPER,
    _DEST_LOWER,
    _DEST_ACTIVE,
    _DEST_INACTIVE,
    _DEST_FAMILY,
) = (
    *range(1, 9),
    11,
)
_PERSISTENT, _HASH_PORT = 0x1, 0x10
"""IP_VS_SVC_F_PERSISTENT; IP_VS_SVC_F_SCHED2, which means mh-port."""
_FLAGS_MASK = 0xFFFFFFFF
_FORWARDING: Final = {0: "-m", 1: "-m", 2: "-i", 3: "-g"}
"""ipvsadm's option by forwarding method: IP_VS_CONN_F_MASQ, _LOCALNODE (a real server on this
node), _TUNNEL, _DROUTE."""
_MASQUERADE = 0
_HEADER = struct.Struct("=BBH")
_VERSION = 1
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES: Final = {number: name for name, number in _PROTOCOLS.items()}


def ask_for_family() -> bytes:
    """Return the request for the family's number, which loads the kernel module."""
    return request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, string(CTRL_ATTR_FAMILY_NAME, FAMILY))


def family_number(body: memoryview) -> int:
    """Decode the reply to `ask_for_family`."""
    return as_number(attributes(body[_HEADER.size :])[CTRL_ATTR_FAMILY_ID])


def request(family: int, command: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Return one message of a generic netlink family; the sender fills in the sequence number."""
    return message(family, flags, _HEADER.pack(command, _VERSION, 0) + body)


def service(server: VirtualServer) -> bytes:
    """Encode a virtual server with all its settings."""
    flags = (_PERSISTENT if server.persistence_s else 0) | (
        _HASH_PORT if server.scheduler == SOURCE_HASH else 0
    )
    is_ipv6 = ":" in server.address
    return nested(
        _ATTR_SERVICE,
        _identity(server),
        string(_SVC_SCHED, server.scheduler),
        attribute(_SVC_FLAGS, struct.pack("=II", flags, _FLAGS_MASK)),
        number(_SVC_TIMEOUT, server.persistence_s),
        attribute(_SVC_NETMASK, struct.pack("=I", 128) if is_ipv6 else b"\xff" * 4),
    )


def which(server: VirtualServer | RealServer) -> bytes:
    """Encode the identity of a virtual server, or of a real server's virtual server."""
    return nested(_ATTR_SERVICE, _identity(server))


def destination(real: RealServer, weight: int = 1) -> bytes:
    """Encode a real server together with the identity of its virtual server."""
    return which(real) + nested(
        _ATTR_DEST,
        attribute(_DEST_ADDR, _address(real.real_address)),
        attribute(_DEST_PORT, struct.pack("!H", real.real_port)),
        number(_DEST_METHOD, _MASQUERADE),
        number(_DEST_WEIGHT, weight),
        number(_DEST_UPPER, 0),
        number(_DEST_LOWER, 0),
        attribute(_DEST_FAMILY, struct.pack("=H", _family(real.real_address))),
    )


def decode_service(body: memoryview) -> VirtualServer | None:
    """Decode a reply to GET_SERVICE; return None for a virtual server that matches a mark."""
    attrs = attributes(attributes(body[_HEADER.size :])[_ATTR_SERVICE])
    if _SVC_ADDR not in attrs:
        return None
    flags = struct.unpack_from("=I", attrs[_SVC_FLAGS])[0]
    return VirtualServer(
        "",
        _NAMES[as_number(attrs[_SVC_PROTOCOL])],
        _as_address(attrs, _SVC_ADDR, as_number(attrs[_SVC_AF])),
        int.from_bytes(attrs[_SVC_PORT], "big"),
        as_string(attrs[_SVC_SCHED]),
        as_number(attrs[_SVC_TIMEOUT]) if flags & _PERSISTENT else 0,
    )


def decode_destination(body: memoryview, server: VirtualServer) -> tuple[RealServer, int, int]:
    """Decode a reply to GET_DEST; return a real server, its weight and number of connections."""
    attrs = attributes(attributes(body[_HEADER.size :])[_ATTR_DEST])
    family = as_number(attrs[_DEST_FAMILY]) if _DEST_FAMILY in attrs else _family(server.address)
    address, port = _as_address(attrs, _DEST_ADDR, family), int.from_bytes(attrs[_DEST_PORT], "big")
    connections = as_number(attrs[_DEST_ACTIVE]) + as_number(attrs[_DEST_INACTIVE])
    forwarding = _FORWARDING.get(
        method := as_number(attrs[_DEST_METHOD]), f"(forwarding method {method})"
    )
    real = RealServer("", server.protocol, server.address, server.port, address, port, forwarding)
    return real, as_number(attrs[_DEST_WEIGHT]), connections


def _identity(server: VirtualServer | RealServer) -> bytes:
    return (
        attribute(_SVC_AF, struct.pack("=H", _family(server.address)))
        + attribute(_SVC_PROTOCOL, struct.pack("=H", _PROTOCOLS[server.protocol]))
        + attribute(_SVC_ADDR, _address(server.address))
        + attribute(_SVC_PORT, struct.pack("!H", server.port))
    )


def _family(address: str) -> int:
    return FAMILY_OF_VERSION[ip_address(address).version]


def _address(address: str) -> bytes:
    """Encode a union nf_inet_addr, which has sixteen bytes in both families."""
    return ip_address(address).packed.ljust(16, b"\0")


def _as_address(attrs: Attributes, type_: int, family: int) -> str:
    return str(as_address(attrs[type_][: 16 if family == AF_INET6 else 4]))
