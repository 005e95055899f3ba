"""IPVS messages: the project's decoder reads what pyroute2 encodes, and the other way round."""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address

import pytest

from kubenetlab.hoststate.rules import ipvs_messages
from kubenetlab.hoststate.rules.ipvs import RealServer, VirtualServer
from kubenetlab.hoststate.wire import (
    NLM_F_REQUEST,
    Attributes,
    as_number,
    as_string,
    attribute,
    attributes,
    message,
    messages,
    nested,
    number,
    string,
)

FAMILY_NUMBER = 30
HEADER = struct.Struct("=BBH")
"""genlmsghdr: command, version, reserved."""
SERVERS = [
    VirtualServer("", "tcp", "10.96.0.9", 80, "rr"),
    VirtualServer("", "sctp", "fd00:10:96::9", 80, "mh", 600),
]
AF = {4: 2, 6: 10}
PROTOCOLS = {"tcp": 6, "sctp": 132}


def decode(request: bytes, command: int) -> Attributes:
    """Return the attributes of a request to the family IPVS."""
    ((type_, flags, _, body),) = messages(request)
    assert (type_, flags) == (FAMILY_NUMBER, NLM_F_REQUEST)
    assert HEADER.unpack_from(body) == (command, 1, 0)
    return attributes(body[HEADER.size :])


def version(address: str) -> int:
    return ip_address(address).version


def identity(server: VirtualServer | RealServer) -> list[object]:
    """Return the values of a service's first attributes: family, protocol, address, port."""
    return [
        AF[version(server.address)],
        PROTOCOLS[server.protocol],
        ip_address(server.address).packed,
        server.port,
    ]


def read_identity(service: Attributes) -> list[object]:
    return [
        as_number(service[1]),
        as_number(service[2]),
        bytes(service[3]),
        int.from_bytes(service[4], "big"),
    ]


@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_virtual_server_is_encoded_with_its_settings(server: VirtualServer) -> None:
    request = ipvs_messages.service_request(FAMILY_NUMBER, ipvs_messages.NEW_SERVICE, server)
    service = attributes(decode(request, ipvs_messages.NEW_SERVICE)[1])
    assert read_identity(service) == identity(server)
    assert as_string(service[6]) == server.scheduler
    flags = {"rr": 0, "mh": 0x1 | 0x10}[server.scheduler]
    assert struct.unpack("=II", service[7]) == (flags, 0xFFFFFFFF)
    assert as_number(service[8]) == server.persistence_s
    mask = {4: b"\xff" * 4, 6: (128).to_bytes(4, sys.byteorder)}[version(server.address)]
    assert bytes(service[9]) == mask


@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_virtual_server_is_removed_by_its_identity(server: VirtualServer) -> None:
    request = ipvs_messages.service_removal(FAMILY_NUMBER, ipvs_messages.DEL_SERVICE, server)
    service = attributes(decode(request, ipvs_messages.DEL_SERVICE)[1])
    assert (read_identity(service), sorted(service)) == (identity(server), [1, 2, 3, 4])


@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_real_server_is_encoded_with_its_virtual_server(server: VirtualServer) -> None:
    real = RealServer("", server.protocol, server.address, server.port, server.address, 8080)
    request = ipvs_messages.destination_request(
        FAMILY_NUMBER, ipvs_messages.SET_DEST, real, weight=7
    )
    attrs = decode(request, ipvs_messages.SET_DEST)
    destination = attributes(attrs[2])
    assert read_identity(attributes(attrs[1])) == identity(server)
    assert bytes(destination[1]) == ip_address(server.address).packed
    assert int.from_bytes(destination[2], "big") == 8080
    assert [as_number(destination[type_]) for type_ in (3, 4, 5, 6)] == [0, 7, 0, 0]
    assert as_number(destination[11]) == AF[version(server.address)]


def reply(command: int, *parts: bytes) -> memoryview:
    ((_, _, _, body),) = messages(message(30, 0, HEADER.pack(command, 1, 0) + b"".join(parts)))
    return body


def nf_inet_addr(type_: int, address: str) -> bytes:
    """Encode an address as the kernel reports it, with sixteen bytes in both families."""
    return attribute(type_, ip_address(address).packed.ljust(16, b"\0"))


def service_reply(server: VirtualServer, *more: bytes) -> memoryview:
    flags = struct.pack("=II", 0x1 if server.persistence_s else 0, 0xFFFFFFFF)
    parts = (
        attribute(1, struct.pack("=H", AF[version(server.address)])),
        attribute(2, struct.pack("=H", PROTOCOLS[server.protocol])),
        nf_inet_addr(3, server.address),
        attribute(4, struct.pack("!H", server.port)),
        string(6, server.scheduler),
        attribute(7, flags),
        number(8, server.persistence_s or 360),
    )
    return reply(ipvs_messages.NEW_SERVICE, nested(1, *parts, *more))


@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_listed_virtual_server_is_decoded(server: VirtualServer) -> None:
    """Its statistics are not read. The timeout of a server without persistence is ignored."""
    assert ipvs_messages.decode_service(service_reply(server, nested(10, number(1, 9)))) == server


def test_a_virtual_server_for_a_mark_is_none_of_ours() -> None:
    parts = (attribute(1, struct.pack("=H", 2)), number(5, 33), string(6, "rr"))
    assert ipvs_messages.decode_service(reply(ipvs_messages.NEW_SERVICE, nested(1, *parts))) is None


@pytest.mark.parametrize(
    ("method", "option"),
    [(0, "-m"), (1, "-m"), (2, "-i"), (3, "-g"), (4, "(forwarding method 4)")],
)
@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_listed_real_server_is_decoded(server: VirtualServer, method: int, option: str) -> None:
    """The kernel reports the address before its family."""
    parts = (
        nf_inet_addr(1, server.address),
        attribute(2, struct.pack("!H", 8080)),
        number(3, method),
        number(4, 7),
        number(5, 0),
        number(6, 0),
        number(7, 2),
        number(8, 3),
        number(9, 100),
        attribute(11, struct.pack("=H", AF[version(server.address)])),
    )
    real, weight, connections = ipvs_messages.decode_destination(
        reply(ipvs_messages.NEW_DEST, nested(2, *parts)), server
    )
    assert real == RealServer(
        "", server.protocol, server.address, server.port, server.address, 8080, option
    )
    assert (weight, connections) == (7, 5)


def test_the_number_of_the_family_is_asked_for_by_its_name() -> None:
    ((type_, flags, _, body),) = messages(ipvs_messages.family_request())
    assert (type_, flags, HEADER.unpack_from(body)) == (16, NLM_F_REQUEST, (3, 1, 0))
    assert as_string(attributes(body[HEADER.size :])[2]) == "IPVS"
    answer = reply(1, string(2, "IPVS"), attribute(1, struct.pack("=H", FAMILY_NUMBER)))
    assert ipvs_messages.family_number(answer) == FAMILY_NUMBER
