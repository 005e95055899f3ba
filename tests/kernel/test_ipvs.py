"""Virtual servers by IPVS: changes, what is there already, and how real servers take their leave."""

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
    Balanced,
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
SMALL: list[Balanced] = [SERVERS[0], RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.2", 8080)]
LARGE: list[Balanced] = [
    *SERVERS,
    *(RealServer("n", "tcp", "10.96.0.9", 80, f"10.244.1.{last}", 8080) for last in range(2, 200)),
    RealServer("n", "udp", "10.96.0.10", 53, "10.244.1.2", 53),
    RealServer("n", "tcp", "fd00:10:96::9", 80, "fd00:10:244::2", 8080),
]


@contextmanager
def opened() -> Iterator[ipvs.Ipvs]:
    try:
        loader = ipvs.open_here()
    except RequirementError as error:
        pytest.skip(str(error))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with closing(loader):
        yield loader


def test_changing_ends_where_making_anew_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """From few to many and back; making anew what is there changes nothing, and nobody else is thought to have had a hand in it."""
    monkeypatch.setattr("kubenetlab.kernel.rules.ipvs.CHECK_INTERVAL_S", 0)
    with opened() as here:
        before: list[Balanced] = []
        for wanted in (SMALL, LARGE, SMALL):
            here.run(update(before, wanted))
            here.tend()
            changed = here.text()
            assert list(differences(wanted, here.listed(NAMES))) == []
            assert not here.was_touched()
            here.run(replacement(wanted))
            assert here.text() == changed
            assert not here.was_touched()
            before = wanted
        here.run(update(before, []))
        assert here.text() == ""


@pytest.mark.parametrize(
    "theirs",
    [[], LARGE, [VirtualServer("n", "tcp", "10.96.0.9", 80, "lc")]],
    ids=["gone", "more", "another scheduler"],
)
def test_what_somebody_changed_is_noticed(
    theirs: list[Balanced], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing more when it has been made anew."""
    monkeypatch.setattr("kubenetlab.kernel.rules.ipvs.CHECK_INTERVAL_S", 0)
    with opened() as here, opened() as other:
        here.run(update([], SMALL))
        other.run(replacement(theirs, NAMES))
        assert here.was_touched()
        here.run(replacement(SMALL))
        assert not here.was_touched()


def test_a_virtual_server_is_given_another_scheduler() -> None:
    """Its real ones stay."""
    other: list[Balanced] = [VirtualServer("n", "tcp", "10.96.0.9", 80, "lc", 60), SMALL[1]]
    with opened() as here:
        here.run(update([], SMALL))
        here.run(update(SMALL, other))
        assert (
            here.text()
            == "-A -t 10.96.0.9:80 -s lc -p 60\n-a -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1\n"
        )
        (found,) = differences(SMALL, here.listed(NAMES))
        assert found.line == "~ ipvs -t 10.96.0.9:80: -s rr    (was: -s lc -p 60)"
        here.run(replacement([], NAMES))
        assert here.text() == ""


def test_edited_servers_are_shown_before_and_after() -> None:
    """A real server's weight and an additional one; what waits for its connections is no difference."""
    (server, real), gone = SMALL, RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.7", 8080)
    assert isinstance(real, RealServer)
    with opened() as here, opened() as other:
        here.run(update([], SMALL))
        assert list(differences(SMALL, here.listed(NAMES))) == []
        other._send_all(
            [(gone, other._request(messages.NEW_DEST, messages.destination(gone, weight=0)))]
        )
        assert list(differences(SMALL, here.listed(NAMES))) == []
        other._send_all(
            [(real, other._request(messages.SET_DEST, messages.destination(real, weight=7)))]
        )
        other._send_all(
            [(gone, other._request(messages.SET_DEST, messages.destination(gone, weight=1)))]
        )
        assert [found.line for found in differences(SMALL, here.listed(NAMES))] == [
            "~ ipvs -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1    (was: -r 10.244.1.2:8080 -m -w 7)",
            "- ipvs -t 10.96.0.9:80 -r 10.244.1.7:8080 -m -w 1",
        ]
        here.run(replacement(SMALL))
        assert list(differences(SMALL, here.listed(NAMES))) == []
        assert str(server) in here.text().replace("-A ", "ipvs ")


def test_a_real_server_goes_when_its_last_connection_has_ended() -> None:
    """Until then it gets no new one, and who comes back is asked again."""
    reals: list[Balanced] = [
        RealServer("n", "tcp", "192.0.2.9", 80, "127.0.0.1", port) for port in (8080, 8081)
    ]
    server = VirtualServer("n", "tcp", "192.0.2.9", 80, "rr")
    subprocess.run(["ip", "address", "add", "192.0.2.9/32", "dev", "lo"], check=True)
    with (
        opened() as here,
        socket.create_server(("127.0.0.1", 8080)),
        socket.create_server(("127.0.0.1", 8081)),
    ):
        here.run(update([], [server, *reals]))
        connections = [socket.create_connection(("192.0.2.9", 80)) for _ in range(4)]
        here.run(update([server, *reals], [server, reals[0]]))
        here.tend()
        assert here.text().count(" -r ") == 2
        assert list(differences([server, reals[0]], here.listed(NAMES))) == []
        here.run(update([server, reals[0]], [server, *reals]))
        assert list(differences([server, *reals], here.listed(NAMES))) == []
        for connection in connections:
            connection.close()


def test_a_refused_server_is_named() -> None:
    """A scheduler that the kernel does not have."""
    wrong: list[Balanced] = [VirtualServer("n", "tcp", "10.96.0.9", 80, "nosuch")]
    with opened() as here:
        with pytest.raises(RulesError) as caught:
            here.run(update([], wrong))
        assert failed_object(str(caught.value), wrong) == (wrong[0], wrong[0])
