"""Connection tracking: entries are listed, and stale UDP flows are deleted."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import msgspec
import pytest

from kubenetlab.hoststate.netlink import message_classes
from kubenetlab.hoststate.rules.conntrack import FlowUpdate
from kubenetlab.kernel.netlink.conntrack_entries import ConntrackEntry, tracked_entries
from kubenetlab.kernel.rules.conntrack import Conntrack, open_loader

TRACKING = """
table inet tracking {
    chain output { type filter hook output priority 0; ct state new accept; }
}
table ip nat {
    chain output { type nat hook output priority -100; udp dport 81 dnat to 127.0.0.1:5301; }
}
"""
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextmanager
def udp_client(address: str, port: int, server: tuple[str, int] | None) -> Iterator[int]:
    """Exchange datagrams with a server on this machine; yield the port of the client.

    server: real address and port of the server; None: no server answers.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if server is not None:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            listener.bind(server)
        client.sendto(b"ask", (address, port))
        if server is not None:
            data, peer = listener.recvfrom(16)
            listener.sendto(data, peer)
            client.recv(16)
        yield client.getsockname()[1]


@contextmanager
def open_tracking() -> Iterator[Conntrack]:
    """Open the loader in the test's own namespace; a fixture would run outside of it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["nft", "-f", "-"], input=TRACKING, text=True, check=True)
    with closing(open_loader()) as loader:
        yield loader


def run(loader: Conntrack, *updates: FlowUpdate) -> None:
    loader.run(msgspec.json.encode(updates).decode())


@pytest.mark.parametrize("version", [4, 6])
def test_only_flows_to_former_endpoints_are_deleted(version: int) -> None:
    """Flows to other ports stay, and so do those whose endpoint is still one."""
    address = LOOPBACK[version]
    with (
        open_tracking() as loader,
        udp_client(address, 5300, (address, 5300)),
        udp_client(address, 5301, (address, 5301)),
    ):
        first, second = (
            f"udp {address} port {port} answered by {address} port {port}\n"
            for port in (5300, 5301)
        )
        assert loader.text() == first + second
        run(loader, FlowUpdate(version, address, 5300, ((address, 5300),)))
        run(loader, FlowUpdate(version, address, 5302, ()))
        run(loader, FlowUpdate(10 - version, LOOPBACK[10 - version], 5300, ()))
        assert loader.text() == first + second
        run(loader, FlowUpdate(version, address, 5300, (("192.0.2.1", 5300), ("fd00::1", 5300))))
        assert loader.text() == second
        run(loader, FlowUpdate(version, address, 5301, ()), FlowUpdate(version, address, 53, ()))
        assert loader.text() == ""


def test_flows_of_many_clients_to_one_server_are_one_line() -> None:
    """Tunnels choose a source port for each connection in them."""
    server = ("127.0.0.1", 5300)
    with open_tracking() as loader, ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(udp_client(*server, None))
        clients.enter_context(udp_client("127.0.0.1", 5301, None))
        assert loader.text() == (
            "udp 127.0.0.1 port 5300 answered by 127.0.0.1 port 5300 (3 flows)\n"
            "udp 127.0.0.1 port 5301 answered by 127.0.0.1 port 5301\n"
        )


def test_flows_to_node_ports_are_those_to_own_addresses_or_with_translation() -> None:
    """A translated flow is one to a node port, whatever the address; others are not."""
    with (
        open_tracking() as loader,
        udp_client("127.0.0.1", 5300, ("127.0.0.1", 5300)),
        udp_client("127.0.0.1", 81, ("127.0.0.1", 5301)),
        udp_client("127.0.0.2", 5300, ("127.0.0.2", 5300)),
    ):
        run(loader, FlowUpdate(4, "", 5300, ()))
        assert loader.text() == (
            "udp 127.0.0.1 port 81 answered by 127.0.0.1 port 5301\n"
            "udp 127.0.0.2 port 5300 answered by 127.0.0.2 port 5300\n"
        )
        run(loader, FlowUpdate(4, "", 81, (("127.0.0.1", 5301),)))
        assert "port 81 " in loader.text()
        run(loader, FlowUpdate(4, "", 81, (("127.0.0.1", 5300),)))
        assert "port 81 " not in loader.text()


@pytest.mark.parametrize("version", [4, 6])
def test_entries_have_both_directions_and_a_state(version: int) -> None:
    address = LOOPBACK[version]
    with (
        open_tracking(),
        udp_client(address, 5300, None) as unanswered,
        udp_client(address, 5301, (address, 5301)) as answered,
        socket.create_server((address, 8080), family=FAMILIES[version]),
        socket.create_connection((address, 8080)) as connection,
    ):
        port = connection.getsockname()[1]
        entries = {
            entry.client[1]: msgspec.structs.replace(entry, timeout_s=0)
            for entry in tracked_entries()
            if entry.protocol in ("TCP", "UDP")
        }
        timeouts = [entry.timeout_s for entry in tracked_entries()]
    assert entries == {
        client: ConntrackEntry(
            protocol,
            state,
            (address, client),
            (address, server),
            (address, server),
            (address, client),
            0,
        )
        for client, server, protocol, state in (
            (unanswered, 5300, "UDP", "UNREPLIED"),
            (answered, 5301, "UDP", ""),
            (port, 8080, "TCP", "ESTABLISHED"),
        )
    }
    assert all(0 < timeout_s <= 432000 for timeout_s in timeouts)


def test_translations_are_the_difference_between_both_directions() -> None:
    with open_tracking(), udp_client("127.0.0.3", 81, ("127.0.0.1", 5301)) as port:
        (entry,) = tracked_entries()
    assert (entry.destination, entry.server) == (("127.0.0.3", 81), ("127.0.0.1", 5301))
    assert entry.client[1] == port


def test_no_message_class_of_pyroute2_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node agent must not wait for an import when an endpoint changes."""

    def refuse(message_class: object) -> None:
        raise AssertionError(f"{message_class} is imported")

    monkeypatch.setattr(message_classes, "_load", refuse)
    with open_tracking() as loader:
        assert tracked_entries() == []
        run(loader, FlowUpdate(4, "127.0.0.1", 5300, ()))
        with udp_client("127.0.0.1", 5301, ("127.0.0.1", 5301)):
            assert len(tracked_entries()) == 1
            run(loader, FlowUpdate(4, "127.0.0.1", 5301, ()))
            assert loader.text() == ""
