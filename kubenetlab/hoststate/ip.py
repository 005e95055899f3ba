"""What addresses, routes and neighbours share: families and scopes.

Source: include/linux/socket.h, include/uapi/linux/rtnetlink.h (6.12).
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
FAMILY_OF_VERSION: Final[Mapping[int, int]] = {4: AF_INET, 6: AF_INET6}

RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255

OUR_PROTOCOL: Final = 4
"""RTPROT_STATIC, the mark of what we have made: somebody else's additions (`ip route add` says `boot`) are left alone."""


def packed(address: str) -> tuple[int, bytes]:
    """(family, bytes) of an address. Thousands are encoded at a time: IPv4 takes the short way."""
    return (
        (AF_INET6, ip_address(address).packed)
        if ":" in address
        else (AF_INET, bytes(map(int, address.split("."))))
    )


def packed_prefix(prefix: str) -> tuple[int, bytes, int]:
    """(family, bytes, length) of an address with its prefix length, or of a network."""
    address, _, length = prefix.partition("/")
    return *packed(address), int(length)


def address_text(value: memoryview) -> str:
    """An address attribute as text. Thousands are read at a time: IPv4 takes the short way."""
    return "{}.{}.{}.{}".format(*value) if len(value) == 4 else str(as_address(value))


def as_address(value: memoryview) -> IPv4Address | IPv6Address:
    """An address attribute of 4 or 16 bytes."""
    return ip_address(bytes(value))
