"""The ipvs backend compares some servers at a time, and drains only where servers are draining."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kubenetlab.hoststate.netlink.wire import HEADER, as_number, attributes
from kubenetlab.hoststate.rules import ipvs_messages
from kubenetlab.hoststate.rules.ipvs import IpvsRules, RealServer, VirtualServer, update
from kubenetlab.kernel.rules import ipvs
from tests.ipvs_replies import destination_reply, family_reply, mark_reply, service_reply

SERVERS = [VirtualServer("", "tcp", "10.96.0.9", port, "rr") for port in range(1, 101)]
REALS = [
    RealServer("", "tcp", server.address, server.port, f"10.244.1.{last}", 8080)
    for server in SERVERS
    for last in (2, 3)
]
ALL: list[IpvsRules] = [*SERVERS, *REALS]


class FakeIpvs(ipvs.Ipvs):
    """The loader with a kernel of its own."""

    def __init__(self) -> None:
        self.servers: dict[int, VirtualServer] = {}
        """Virtual servers by port."""
        self.reals: dict[tuple[int, str], tuple[RealServer, int, int]] = {}
        """Real servers by port and address, each with weight and number of connections."""
        self.marks: list[int] = []
        self.queries = 0
        super().__init__()

    def _query(self, request: bytes, flags: int = 0) -> list[memoryview]:
        self.queries += 1
        if HEADER.unpack_from(request)[1] == 16:
            return [family_reply()]
        command, attrs = request[16], attributes(memoryview(request)[20:])
        if 1 not in attrs:
            marks = [mark_reply(mark) for mark in self.marks]
            return [service_reply(server) for server in self.servers.values()] + marks
        port = int.from_bytes(attributes(attrs[1])[4], "big")
        if command == ipvs_messages.GET_SERVICE:
            if port not in self.servers:
                raise OSError(errno.ESRCH, "no such service")
            return [service_reply(self.servers[port])]
        return [destination_reply(*entry) for key, entry in self.reals.items() if key[0] == port]

    def _send_all(
        self, requests: Sequence[ipvs.ServerRequest[ipvs.ServerT]], *tolerated: int
    ) -> list[ipvs.ServerT]:
        for server, request in requests:
            self._apply(request[16], server, attributes(memoryview(request)[20:]))
        return []

    def _apply(self, command: int, server: ipvs.Server, attrs: Any) -> None:
        if isinstance(server, VirtualServer):
            self.servers[server.port] = server
        elif command == ipvs_messages.DEL_DEST:
            del self.reals[server.port, server.real_address]
        else:
            key = (server.port, server.real_address)
            connections = self.reals[key][2] if key in self.reals else 0
            self.reals[key] = (server, as_number(attributes(attrs[2])[4]), connections)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIpvs]:
    monkeypatch.setattr(ipvs, "CHECK_INTERVAL_S", 0)
    loader = FakeIpvs()
    loader.run(update([], ALL))
    loader.maintain()
    yield loader
    loader.close()


def calls_until_drift(loader: FakeIpvs) -> int:
    """Return the number of calls until a difference is found; each makes few queries."""
    for number in range(1, 100):
        before = loader.queries
        has_drift = loader.has_drift()
        assert loader.queries - before <= 2 * ipvs.SERVERS_PER_CHECK + 1
        if has_drift:
            return number
    raise AssertionError("no difference is found")


def test_a_difference_anywhere_is_found_some_calls_later(loader: FakeIpvs) -> None:
    assert not any(loader.has_drift() for _ in range(20))
    server, weight, connections = loader.reals[100, "10.244.1.3"]
    loader.reals[100, "10.244.1.3"] = (server, weight + 6, connections)
    assert calls_until_drift(loader) <= len(SERVERS) / ipvs.SERVERS_PER_CHECK + 2


def test_missing_and_additional_servers_are_differences(loader: FakeIpvs) -> None:
    removed = loader.servers.pop(50)
    assert calls_until_drift(loader)
    loader.servers[50] = removed
    loader.servers[101] = VirtualServer("", "tcp", "10.96.0.9", 101, "rr")
    assert calls_until_drift(loader)
    del loader.servers[50]
    assert calls_until_drift(loader)


def test_servers_for_marks_are_none_of_ours(loader: FakeIpvs) -> None:
    loader.marks = [33]
    assert not any(loader.has_drift() for _ in range(20))


def test_own_changes_are_no_difference(loader: FakeIpvs) -> None:
    """Not even in the middle of a comparison."""
    for count in range(93, 0, -7):
        assert not loader.has_drift()
        fewer = [obj for obj in ALL if not isinstance(obj, RealServer) or obj.port <= count]
        loader.run(update(ALL, fewer))
        loader.maintain()
        assert not loader.has_drift()
        loader.run(update(fewer, ALL))


def test_a_refused_query_is_not_the_end_of_comparisons(
    loader: FakeIpvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: bytes, flags: int = 0) -> list[memoryview]:
        raise OSError(errno.ENOBUFS, "no buffer space")

    with monkeypatch.context() as context:
        context.setattr(loader, "_query", refuse)
        with pytest.raises(OSError, match="no buffer"):
            calls_until_drift(loader)
    loader.servers.pop(50)
    assert calls_until_drift(loader)


def test_only_services_with_draining_servers_are_listed(loader: FakeIpvs) -> None:
    """A draining server is deleted when its last connection has ended."""
    leaving, staying = REALS[0], [obj for obj in ALL if obj != REALS[0]]
    loader.reals[1, leaving.real_address] = (leaving, 1, 5)
    loader.run(update(ALL, staying))
    for connections in (5, 2):
        loader.reals[1, leaving.real_address] = (leaving, 0, connections)
        before = loader.queries
        loader.maintain()
        assert loader.queries - before == 1
        assert (1, leaving.real_address) in loader.reals
    loader.reals[1, leaving.real_address] = (leaving, 0, 0)
    loader.maintain()
    assert (1, leaving.real_address) not in loader.reals
    before = loader.queries
    loader.maintain()
    assert loader.queries == before
