"""Address families, scopes and address encoding for addresses, routes and neighbors.

Source: include/linux/socket.h, include/uapi/linux/rtnetlink.h (6.12).
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
FAMILY_OF_VERSION: Final[Mapping[int, int]] = {4: AF_INET, 6: AF_INET6}

RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 253, 254, 255

OUR_PROTOCOL: Final = 4
"""RTPROT_STATIC, which marks objects created by the lab.

Objects with another protocol belong to others and are left alone; `ip route add` sets `boot`.
"""


def packed(address: str) -> tuple[int, bytes]:
    """Return the family and the bytes of an address.

    Thousands are encoded at a time, so IPv4 avoids the `ipaddress` module.
    """
    return (
        (AF_INET6, ip_address(address).packed)
        if ":" in address
        else (AF_INET, bytes(map(int, address.split("."))))
    )


def packed_prefix(prefix: str) -> tuple[int, bytes, int]:
    """Return the family, the bytes and the prefix length of `10.244.1.5/24` or of a network."""
    address, _, length = prefix.partition("/")
    return *packed(address), int(length)


def address_text(value: memoryview) -> str:
    """Decode an address attribute of 4 or 16 bytes to text.

    Thousands are decoded at a time, so IPv4 avoids the `ipaddress` module.
    """
    return "{}.{}.{}.{}".format(*value) if len(value) == 4 else str(as_address(value))


def as_address(value: memoryview) -> IPv4Address | IPv6Address:
    """Decode an address attribute of 4 or 16 bytes."""
    return ip_address(bytes(value))
