"""The ipvs backend: updates, drift, and draining of real servers."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules import ipvs_messages as messages
from kubenetlab.hoststate.rules.ipvs import (
    NAMES,
    IpvsRules,
    RealServer,
    VirtualServer,
    differences,
    failed_object,
    replacement,
    update,
)
from kubenetlab.kernel.rules import ipvs
from kubenetlab.kernel.rules.backends import RulesError

SERVERS = (
    VirtualServer("n", "tcp", "10.96.0.9", 80, "rr"),
    VirtualServer("n", "udp", "10.96.0.10", 53, "rr", 600),
    VirtualServer("n", "tcp", "fd00:10:96::9", 80, "rr"),
)
SMALL: list[IpvsRules] = [SERVERS[0], RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.2", 8080)]
LARGE: list[IpvsRules] = [
    *SERVERS,
    *(RealServer("n", "tcp", "10.96.0.9", 80, f"10.244.1.{last}", 8080) for last in range(2, 200)),
    RealServer("n", "udp", "10.96.0.10", 53, "10.244.1.2", 53),
    RealServer("n", "tcp", "fd00:10:96::9", 80, "fd00:10:244::2", 8080),
]


@contextmanager
def open_loader() -> Iterator[ipvs.Ipvs]:
    try:
        loader = ipvs.open_loader()
    except RequirementError as error:
        pytest.skip(str(error))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with closing(loader):
        yield loader


def test_updates_and_replacement_create_the_same_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of servers grows and shrinks. A replacement of equal servers changes nothing.

    The lab's own changes are not taken for drift.
    """
    monkeypatch.setattr("kubenetlab.kernel.rules.ipvs.CHECK_INTERVAL_S", 0)
    with open_loader() as loader:
        before: list[IpvsRules] = []
        for desired in (SMALL, LARGE, SMALL):
            loader.run(update(before, desired))
            loader.maintain()
            changed = loader.text()
            assert list(differences(desired, loader.listed(NAMES))) == []
            assert not loader.has_drift()
            loader.run(replacement(desired))
            assert loader.text() == changed
            assert not loader.has_drift()
            before = desired
        loader.run(update(before, []))
        assert loader.text() == ""


@pytest.mark.parametrize(
    "foreign",
    [[], LARGE, [VirtualServer("n", "tcp", "10.96.0.9", 80, "lc")]],
    ids=["gone", "more", "another scheduler"],
)
def test_drift_is_detected(foreign: list[IpvsRules], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a replacement there is none."""
    monkeypatch.setattr("kubenetlab.kernel.rules.ipvs.CHECK_INTERVAL_S", 0)
    with open_loader() as loader, open_loader() as other:
        loader.run(update([], SMALL))
        other.run(replacement(foreign, NAMES))
        assert loader.has_drift()
        loader.run(replacement(SMALL))
        assert not loader.has_drift()


def test_the_scheduler_of_a_virtual_server_is_changed() -> None:
    """Its real servers are kept."""
    other: list[IpvsRules] = [VirtualServer("n", "tcp", "10.96.0.9", 80, "lc", 60), SMALL[1]]
    with open_loader() as loader:
        loader.run(update([], SMALL))
        loader.run(update(SMALL, other))
        assert (
            loader.text()
            == "-A -t 10.96.0.9:80 -s lc -p 60\n-a -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1\n"
        )
        (drift,) = differences(SMALL, loader.listed(NAMES))
        assert drift.line == "~ ipvs -t 10.96.0.9:80: -s rr    (was: -s lc -p 60)"
        loader.run(replacement([], NAMES))
        assert loader.text() == ""


def test_drift_shows_servers_before_and_after() -> None:
    """A changed weight and an additional real server are drift; a draining server is not."""
    (server, real), draining = SMALL, RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.7", 8080)
    assert isinstance(real, RealServer)
    with open_loader() as loader, open_loader() as other:
        loader.run(update([], SMALL))
        assert list(differences(SMALL, loader.listed(NAMES))) == []
        other._send_all(
            [
                (
                    draining,
                    messages.destination_request(
                        other._family, messages.NEW_DEST, draining, weight=0
                    ),
                )
            ]
        )
        assert list(differences(SMALL, loader.listed(NAMES))) == []
        other._send_all(
            [(real, messages.destination_request(other._family, messages.SET_DEST, real, weight=7))]
        )
        other._send_all(
            [
                (
                    draining,
                    messages.destination_request(
                        other._family, messages.SET_DEST, draining, weight=1
                    ),
                )
            ]
        )
        assert [drift.line for drift in differences(SMALL, loader.listed(NAMES))] == [
            "~ ipvs -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1    (was: -r 10.244.1.2:8080 -m -w "
            "7)",
            "- ipvs -t 10.96.0.9:80 -r 10.244.1.7:8080 -m -w 1",
        ]
        loader.run(replacement(SMALL))
        assert list(differences(SMALL, loader.listed(NAMES))) == []
        assert str(server) in loader.text().replace("-A ", "ipvs ")


def test_a_real_server_is_deleted_after_its_last_connection() -> None:
    """Until then it gets no new connections, and can be used again."""
    reals: list[IpvsRules] = [
        RealServer("n", "tcp", "192.0.2.9", 80, "127.0.0.1", port) for port in (8080, 8081)
    ]
    server = VirtualServer("n", "tcp", "192.0.2.9", 80, "rr")
    subprocess.run(["ip", "address", "add", "192.0.2.9/32", "dev", "lo"], check=True)
    with (
        open_loader() as loader,
        socket.create_server(("127.0.0.1", 8080)),
        socket.create_server(("127.0.0.1", 8081)),
    ):
        loader.run(update([], [server, *reals]))
        connections = [socket.create_connection(("192.0.2.9", 80)) for _ in range(4)]
        loader.run(update([server, *reals], [server, reals[0]]))
        loader.maintain()
        assert loader.text().count(" -r ") == 2
        assert list(differences([server, reals[0]], loader.listed(NAMES))) == []
        loader.run(update([server, reals[0]], [server, *reals]))
        assert list(differences([server, *reals], loader.listed(NAMES))) == []
        for connection in connections:
            connection.close()


def test_a_refused_server_is_named() -> None:
    """The kernel does not have its scheduler."""
    wrong: list[IpvsRules] = [VirtualServer("n", "tcp", "10.96.0.9", 80, "nosuch")]
    with open_loader() as loader:
        with pytest.raises(RulesError) as caught:
            loader.run(update([], wrong))
        assert failed_object(str(caught.value), wrong) == (wrong[0], wrong[0])
