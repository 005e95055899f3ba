"""Netlink messages that add members to IP sets and delete them, in place of `ipset restore`.

message := nlmsghdr (16 bytes) | nfgenmsg (u8 family, u8 version, u16 resource) | attributes
Source: include/uapi/linux/netfilter/ipset/ip_set.h, net/netfilter/ipset/ip_set_core.c (6.12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Final

from kubenetlab.hoststate.netlink.wire import attribute, message, nested, string

_SUBSYSTEM: Final = 6 << 8
"""NFNL_SUBSYS_IPSET."""
LIST: Final = _SUBSYSTEM | 7
"""IPSET_CMD_LIST."""
_COMMANDS: Final = {"add": _SUBSYSTEM | 9, "del": _SUBSYSTEM | 10}
_HEADER: Final = bytes((2, 0, 0, 0))
"""AF_INET, which does not matter, and version 0."""
_PROTOCOL: Final = attribute(1, b"\x06")
"""The oldest version that all kernels accept."""
PROTOCOL_AND_HEADER: Final = _HEADER + _PROTOCOL
"""Begin of every request."""
_SETNAME, _DATA = 2, 7
_IP, _CIDR, _PORT, _PROTO, _IP2, _CIDR2 = 1, 3, 4, 7, 20, 21
_NET_BYTEORDER: Final = 0x4000
"""NLA_F_NET_BYTEORDER."""
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_MAX_PORT: Final = 65535


def member_messages(text: str, types: Mapping[str, str]) -> list[bytes] | None:
    """Return the messages of commands for `ipset restore`.

    Return None if there is a command that is not `add -exist` or `del -exist`, or a member that
    does not have the form of its set's type.

    types: type of each known set, such as `hash:ip,port`.
    """
    try:
        return [_message(line.split(" "), types) for line in text.splitlines()]
    except (KeyError, ValueError):
        return None


def created_types(text: str) -> Iterable[tuple[str, str]]:
    """Yield (name, type) of each set that commands for `ipset restore` create."""
    for line in text.splitlines():
        match [word for word in line.split() if word != "-exist"]:
            case ["create", name, type_, *_]:
                yield name, type_


def _message(words: list[str], types: Mapping[str, str]) -> bytes:
    """Return one message. Raises KeyError or ValueError for other commands."""
    command, option, name, item = words
    if option != "-exist":
        raise ValueError(option)
    data = nested(_DATA, *_ENCODERS[types[name]](item))
    # Without NLM_F_EXCL the kernel accepts members that exist, or are missing.
    return message(_COMMANDS[command], 0, PROTOCOL_AND_HEADER + string(_SETNAME, name) + data)


def _address(type_: int, text: str) -> bytes:
    address = ip_address(text)
    version = attribute((1 if address.version == 4 else 2) | _NET_BYTEORDER, address.packed)
    return nested(type_, version)


def _ip(item: str) -> tuple[bytes, ...]:
    return (_address(_IP, item),)


def _range(text: str, address: int, length: int) -> tuple[bytes, ...]:
    first, slash, bits = text.partition("/")
    own = attribute(length, bytes([int(bits)])) if slash else b""
    return _address(address, first), own


def _net(item: str) -> tuple[bytes, ...]:
    return _range(item, _IP, _CIDR)


def _number(text: str) -> bytes:
    number = int(text)
    if not 0 <= number <= _MAX_PORT:
        raise ValueError(text)
    return attribute(_PORT | _NET_BYTEORDER, number.to_bytes(2))


def _ip_port(item: str) -> tuple[bytes, ...]:
    address, port = item.split(",")
    protocol, number = port.split(":")
    return (
        _address(_IP, address),
        _number(number),
        attribute(_PROTO, bytes([_PROTOCOLS[protocol]])),
    )


def _ip_port_ip(item: str) -> tuple[bytes, ...]:
    first, _, address = item.rpartition(",")
    return *_ip_port(first), _address(_IP2, address)


def _ip_port_net(item: str) -> tuple[bytes, ...]:
    first, _, cidr = item.rpartition(",")
    return *_ip_port(first), *_range(cidr, _IP2, _CIDR2)


def _port(item: str) -> tuple[bytes, ...]:
    return (_number(item),)


_ENCODERS: Final[Mapping[str, Callable[[str], tuple[bytes, ...]]]] = {
    "hash:ip": _ip,
    "hash:net": _net,
    "hash:ip,port": _ip_port,
    "hash:ip,port,ip": _ip_port_ip,
    "hash:ip,port,net": _ip_port_net,
    "bitmap:port": _port,
}
"""Type of a set → function that encodes a member."""
