"""IPVS messages: the project's decoder reads what pyroute2 encodes, and the other way round."""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address

import pytest

from kubenetlab.hoststate.netlink import generic
from kubenetlab.hoststate.netlink.wire import (
    NLM_F_REQUEST,
    Attributes,
    as_number,
    as_string,
    attributes,
    messages,
)
from kubenetlab.hoststate.rules import ipvs_messages
from kubenetlab.hoststate.rules.ipvs import RealServer, VirtualServer
from tests.ipvs_replies import (
    AF,
    FAMILY_NUMBER,
    HEADER,
    PROTOCOLS,
    destination_reply,
    family_reply,
    mark_reply,
    service_reply,
    version,
)

SERVERS = [
    VirtualServer("", "tcp", "10.96.0.9", 80, "rr"),
    VirtualServer("", "sctp", "fd00:10:96::9", 80, "mh", 600),
]


def decode(request: bytes, command: int) -> Attributes:
    """Return the attributes of a request to the family IPVS."""
    ((type_, flags, _, body),) = messages(request)
    assert (type_, flags) == (FAMILY_NUMBER, NLM_F_REQUEST)
    assert HEADER.unpack_from(body) == (command, 1, 0)
    return attributes(body[HEADER.size :])


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


@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_listed_virtual_server_is_decoded(server: VirtualServer) -> None:
    """Its statistics are not read. The timeout of a server without persistence is ignored."""
    assert ipvs_messages.decode_service(service_reply(server)) == server


def test_a_virtual_server_for_a_mark_is_none_of_ours() -> None:
    assert ipvs_messages.decode_service(mark_reply(33)) is None


@pytest.mark.parametrize(
    ("method", "option"),
    [(0, "-m"), (1, "-m"), (2, "-i"), (3, "-g"), (4, "(forwarding method 4)")],
)
@pytest.mark.parametrize("server", SERVERS, ids=["IPv4", "IPv6"])
def test_a_listed_real_server_is_decoded(server: VirtualServer, method: int, option: str) -> None:
    real = RealServer(
        "", server.protocol, server.address, server.port, server.address, 8080, option
    )
    body = destination_reply(real, weight=7, connections=5, method=method)
    assert ipvs_messages.decode_destination(body, server) == (real, 7, 5)


def test_the_number_of_the_family_is_asked_for_by_its_name() -> None:
    ((type_, flags, _, body),) = messages(generic.family_request(ipvs_messages.FAMILY))
    assert (type_, flags, HEADER.unpack_from(body)) == (16, NLM_F_REQUEST, (3, 1, 0))
    assert as_string(attributes(body[HEADER.size :])[2]) == "IPVS"
    assert generic.family_number(family_reply()) == FAMILY_NUMBER
