"""Generic netlink messages of IPVS.

message := nlmsghdr (16 bytes) | genlmsghdr (u8 command, u8 version, u16 reserved) | attributes
Source: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c (6.1);
include/uapi/linux/genetlink.h.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from typing import Final

from kubenetlab.hoststate.ip import FAMILY_OF_VERSION
from kubenetlab.hoststate.netlink.message_classes import Attribute, MessageClass, nest
from kubenetlab.hoststate.rules.ipvs import SOURCE_HASH, RealServer, VirtualServer

FAMILY: Final = "IPVS"
NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(
    1, 9
)

_IPVS = MessageClass("pyroute2.netlink.generic.ipvs", "ipvsmsg")
_VERSION: Final = 1
_PERSISTENT, _HASH_PORT = 0x1, 0x10
"""IP_VS_SVC_F_PERSISTENT; IP_VS_SVC_F_SCHED2, which means mh-port."""
_FLAGS_MASK: Final = 0xFFFFFFFF
_MASQUERADE: Final = 0
_FORWARDING: Final = {0: "-m", 1: "-m", 2: "-i", 3: "-g"}
"""ipvsadm's option by forwarding method: IP_VS_CONN_F_MASQ, _LOCALNODE (a real server on this
node), _TUNNEL, _DROUTE."""
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES: Final = {number: name for name, number in _PROTOCOLS.items()}
_NETMASKS: Final = {4: "255.255.255.255", 6: str(IPv4Address((128).to_bytes(4, sys.byteorder)))}
"""Netmask of one address: of IPv6 a prefix length in host order, which pyroute2 takes for an IPv4
address all the same."""
_CACHED_REQUESTS: Final = 8192
"""Requests kept, about 5 MB: the nodes of a lab have the same servers."""


def list_services(family: int) -> bytes:
    """Return the request for all virtual servers, without flags."""
    return _request(family, GET_SERVICE)


def find_service(family: int, server: VirtualServer) -> bytes:
    """Return the request for one virtual server, without flags; ESRCH if it does not exist."""
    return _request(family, GET_SERVICE, _service(server))


def list_destinations(family: int, server: VirtualServer | RealServer) -> bytes:
    """Return the request for the real servers of a virtual server, without flags.

    server: the virtual server, or one of its real servers.
    """
    return _request(family, GET_DEST, _service(server))


@lru_cache(_CACHED_REQUESTS)
def service_request(family: int, command: int, server: VirtualServer) -> bytes:
    """Return a request with a virtual server and all its settings.

    family:  number of the generic netlink family.
    command: NEW_SERVICE or SET_SERVICE.
    """
    flags = (_PERSISTENT if server.persistence_s else 0) | (
        _HASH_PORT if server.scheduler == SOURCE_HASH else 0
    )
    settings: tuple[Attribute, ...] = (
        ("IPVS_SVC_ATTR_SCHED_NAME", server.scheduler),
        ("IPVS_SVC_ATTR_FLAGS", {"flags": flags, "mask": _FLAGS_MASK}),
        ("IPVS_SVC_ATTR_TIMEOUT", server.persistence_s),
        ("IPVS_SVC_ATTR_NETMASK", _NETMASKS[ip_address(server.address).version]),
    )
    return _request(family, command, _service(server, *settings))


def service_removal(family: int, command: int, server: VirtualServer) -> bytes:
    """Return a request with the identity of a virtual server; `command` is DEL_SERVICE."""
    return _request(family, command, _service(server))


@lru_cache(_CACHED_REQUESTS)
def destination_request(family: int, command: int, real: RealServer, weight: int = 1) -> bytes:
    """Return a request with a real server and the identity of its virtual server.

    command: NEW_DEST, SET_DEST or DEL_DEST.
    """
    destination = nest(
        ("IPVS_DEST_ATTR_ADDR_FAMILY", _family(real.real_address)),
        ("IPVS_DEST_ATTR_ADDR", real.real_address),
        ("IPVS_DEST_ATTR_PORT", real.real_port),
        ("IPVS_DEST_ATTR_FWD_METHOD", _MASQUERADE),
        ("IPVS_DEST_ATTR_WEIGHT", weight),
        ("IPVS_DEST_ATTR_U_THRESH", 0),
        ("IPVS_DEST_ATTR_L_THRESH", 0),
    )
    return _request(family, command, _service(real), ("IPVS_CMD_ATTR_DEST", destination))


def decode_service(body: memoryview) -> VirtualServer | None:
    """Decode a reply to GET_SERVICE; return None for a virtual server that matches a mark."""
    message = _IPVS.decode(body)
    attrs = message.get_attr("IPVS_CMD_ATTR_SERVICE")
    address = attrs.get_attr("IPVS_SVC_ATTR_ADDR")
    if address is None:
        return None
    flags = attrs.get_attr("IPVS_SVC_ATTR_FLAGS")["flags"]
    return VirtualServer(
        "",
        _NAMES[attrs.get_attr("IPVS_SVC_ATTR_PROTOCOL")],
        address,
        attrs.get_attr("IPVS_SVC_ATTR_PORT"),
        attrs.get_attr("IPVS_SVC_ATTR_SCHED_NAME"),
        attrs.get_attr("IPVS_SVC_ATTR_TIMEOUT") if flags & _PERSISTENT else 0,
    )


def decode_destination(
    body: memoryview, server: VirtualServer | RealServer
) -> tuple[RealServer, int, int]:
    """Decode a reply to `list_destinations`.

    Return a real server, its weight and its number of connections.
    """
    message = _IPVS.decode(body)
    attrs = message.get_attr("IPVS_CMD_ATTR_DEST")
    method = attrs.get_attr("IPVS_DEST_ATTR_FWD_METHOD")
    real = RealServer(
        "",
        server.protocol,
        server.address,
        server.port,
        attrs.get_attr("IPVS_DEST_ATTR_ADDR"),
        attrs.get_attr("IPVS_DEST_ATTR_PORT"),
        _FORWARDING.get(method, f"(forwarding method {method})"),
    )
    connections = sum(
        attrs.get_attr(name)
        for name in ("IPVS_DEST_ATTR_ACTIVE_CONNS", "IPVS_DEST_ATTR_INACT_CONNS")
    )
    return real, attrs.get_attr("IPVS_DEST_ATTR_WEIGHT"), connections


def _request(family: int, command: int, *attributes: Attribute) -> bytes:
    return _IPVS.encode(family, 0, {"cmd": command, "version": _VERSION}, attributes)


def _service(server: VirtualServer | RealServer, *settings: Attribute) -> Attribute:
    """Return the identity of a virtual server, or of a real server's, and settings of it."""
    identity: tuple[Attribute, ...] = (
        ("IPVS_SVC_ATTR_AF", _family(server.address)),
        ("IPVS_SVC_ATTR_PROTOCOL", _PROTOCOLS[server.protocol]),
        ("IPVS_SVC_ATTR_ADDR", server.address),
        ("IPVS_SVC_ATTR_PORT", server.port),
    )
    return "IPVS_CMD_ATTR_SERVICE", nest(*identity, *settings)


def _family(address: str) -> int:
    return FAMILY_OF_VERSION[ip_address(address).version]
