"""kernel/ against Linux: what is planned is made, what is there is read, what differs is mended, what is refused is told."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.link import Bridge, Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.netlink.rtnetlink import MAX_BATCH_BYTES, RouteSocket
from tests.clusters import DUAL, FAMILIES, deployment, service
from tests.kernel.states import Make, difference, ip, made, planned, state_of
from tests.patience import patiently

LAYOUTS = [
    ("onlink", "dynamic"),
    ("onlink", "permanent"),
    ("routed", "dynamic"),
    ("routed", "permanent"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("layout", "neighbors"), LAYOUTS)
def test_a_whole_plan_is_made_and_read_back(
    kernel: Make, layout: str, neighbors: str, family: str
) -> None:
    """Every link, address, route, neighbour and setting of a lab: made in one go, and then nothing differs."""
    here, wanted = (
        kernel(),
        planned(FAMILIES[family] + deployment(replicas=8) + service(), layout, neighbors),
    )
    report = here.apply(diff(HostState(), wanted))
    assert (report.failures, report.done) == ((), len(wanted))
    assert difference(here, wanted) == ""


def test_a_dead_pod_gets_no_packets_for_its_successor(kernel: Make) -> None:
    """The namespace of a removed pod may live on for a while; whoever has its address now is reached at once."""
    here, address, mac = kernel(), "10.244.1.2", "0a:58:0a:f4:01:02"
    node = (Bridge("node", "cbr0", "0a:58:0a:f4:01:01"), Address("node", "cbr0", "10.244.1.1/24"))

    def with_pod(name: str, link: str) -> HostState:
        veth = Veth(name, "eth0", mac, "node", link)
        port = Port("node", link, "cbr0", "0a:59:0a:f4:01:02", is_hairpin=True)
        return state_of(*node, port, veth, Address(name, "eth0", f"{address}/24"))

    def connect() -> int:
        with here.sandboxes.inside("node"), socket.socket() as client:
            client.settimeout(patiently(2))
            return client.connect_ex((address, 80))

    first, second = with_pod("first", "veth0"), with_pod("second", "veth1")
    made(here, first)
    assert connect() == errno.ECONNREFUSED
    alive = here.sandboxes.open("first")
    here.apply(diff(first, second)).raise_failures()
    with here.sandboxes.inside("second"):
        server = socket.create_server((address, 80))
    assert [connect() for _ in range(20)] == [0] * 20
    server.close()
    os.close(alive)


CHANGES = (
    "route del 10.244.2.0/24",
    "route replace 10.244.2.0/24 via 172.18.0.2",
    "address del 10.244.1.1/24 dev cbr0",
    "link set veth0 type bridge_slave hairpin off",
    "link set veth0 nomaster",
    "link set cbr0 address 0a:58:00:00:00:09",
    "link set cbr0 down",
    "link del veth0",
    "link del cbr0",
    "link del eth0",
    "neighbor del 10.244.1.2 dev cbr0",
    "route add 192.0.2.0/24 via 172.18.0.2 proto static",
    "-6 route del fd00:10:244:2::/64",
    "-6 route replace fd00:10:244:2::/64 via fd00:172:18::2",
    "-6 address del fd00:10:244:1::1/64 dev cbr0",
    "-6 address change fd00:10:244:1::1/64 dev cbr0 preferred_lft forever",
    "-6 address flush dev eth0 scope link",
    "-6 neighbor del fd00:10:244:1::2 dev cbr0",
)
"""What somebody may do to a node, in the words of `ip`."""


def test_what_somebody_changed_is_seen_and_mended(kernel: Make) -> None:
    """Drift of any kind, one after the other: one or two applies, and all is as it should be."""
    here, wanted = kernel(), planned(DUAL + deployment(replicas=4), "onlink", "permanent")
    made(here, wanted)
    for command in CHANGES:
        ip(here, "node/worker", *command.split())
        assert difference(here, wanted) != "", command
        for _ in range(3):
            here.apply(diff(HostState(here.observe(wanted.namespaces)), wanted))
            if not difference(here, wanted):
                break
        assert difference(here, wanted) == "", command


@pytest.mark.parametrize(
    ("command", "show"),
    [
        ("address add 192.0.2.1/24 dev eth0", "address"),
        ("route add 192.0.2.0/24 via 172.18.0.2", "route"),
        ("neighbor add 172.18.0.99 lladdr 0a:58:00:00:00:09 dev eth0", "neighbor"),
        ("link add mine type bridge", "link"),
    ],
)
def test_what_somebody_added_is_left_alone(kernel: Make, command: str, show: str) -> None:
    """An experiment beside the lab's own objects is no drift, and outlives the next apply."""
    here, wanted = kernel(), planned(deployment(replicas=4), "onlink", "permanent")
    made(here, wanted)
    ip(here, "node/worker", *command.split())
    assert difference(here, wanted) == ""
    before = ip(here, "node/worker", show)
    made(here, planned(deployment(replicas=5), "onlink", "permanent"))
    assert ("mine" if show == "link" else command.split()[2]) in ip(here, "node/worker", show), (
        before
    )


def test_settings_do_not_depend_on_the_machine(kernel: Make) -> None:
    """A setting somebody changed is put back; every new namespace gets all of them."""
    here, wanted = kernel(), planned()
    made(here, wanted)
    with here.sandboxes.inside("node/worker"):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    assert "sysctl net.ipv4.ip_forward = 1    (was: sysctl net.ipv4.ip_forward = 0)" in difference(
        here, wanted
    )
    made(here, wanted)
    assert difference(here, wanted) == ""


def test_a_refusal_names_the_object_and_the_kernels_reason(kernel: Make) -> None:
    """Who wanted what, where, and why not; the rest of the batch is done."""
    here = kernel()
    made(here, state_of(Bridge("n", "br0", "0a:58:00:00:00:01")))
    wanted = state_of(
        Bridge("n", "br0", "0a:58:00:00:00:01"),
        Address("n", "br0", "10.0.0.1/24"),
        Route("n", "10.9.0.0/16", "br0", via="192.0.2.1"),
        Route("n", "10.8.0.0/16", "br0", via="10.0.0.9"),
    )
    report = here.apply(diff(HostState(here.observe(wanted.namespaces)), wanted))
    (failure,) = report.failures
    assert str(failure).splitlines() == [
        "n: cannot add route 10.9.0.0/16 via 192.0.2.1 dev br0",
        "  kernel: Nexthop has invalid gateway (ENETUNREACH)",
        "  → no address of that device shares a subnet with the gateway: see kubenetlab diff",
    ]
    assert "10.8.0.0/16 via 10.0.0.9" in ip(here, "n", "route")


def test_a_namespace_that_fails_leaves_nothing(kernel: Make) -> None:
    """Neither process nor links, on either side; the others are made."""
    here = kernel()
    good = [
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02", alias="a pod"),
    ]
    bad = [
        Veth("bad", "eth0", "0a:58:00:00:00:03", "node", "veth1"),
        Address("bad", "eth0", "10.0.0.1/24"),
        Route("bad", "10.9.0.0/16", "eth0", via="192.0.2.1"),
    ]
    report = here.apply(diff(HostState(), state_of(*good, *bad)))
    assert {failure.netns for failure in report.failures} == {"bad"}
    assert sorted(here.sandboxes.pids) == ["node", "pod"]
    deadline = time.monotonic() + patiently(5)
    while "veth1" in ip(here, "node", "link") and time.monotonic() < deadline:
        pass
    assert "veth1" not in ip(here, "node", "link")
    assert "veth0" in ip(here, "node", "link")


def test_what_is_plugged_into_a_namespace_that_does_not_come_to_be_is_taken_back(
    kernel: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links are plugged in before there is a pause process; where that cannot be started, they have gone with the namespace."""
    here = kernel()
    hold = here.sandboxes.hold

    def no_node(sandbox: Sandbox, network: int | None) -> None:
        if sandbox.netns != "node":
            hold(sandbox, network)
            return
        if network is not None:
            os.close(network)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(here.sandboxes, "hold", no_node)
    wanted = state_of(
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02", alias="a pod"),
        Bridge("other", "br0", "0a:58:00:00:00:03"),
    )
    told: list[str] = []
    report = here.apply(diff(HostState(), wanted), told.append)
    failures = [(failure.netns, failure.errno) for failure in report.failures]
    assert failures[:2] == [("node", errno.EAGAIN), ("pod", errno.ENODEV)]
    assert failures[2:] in (
        [],
        [("node", errno.ENODEV)],
    )  # a slow kernel still has the namespace when the port is asked for
    assert sorted(here.sandboxes.pids) == ["other"]
    assert sorted(told) == ["node", "other", "pod"]
    monkeypatch.undo()
    made(here, wanted)
    assert difference(here, wanted) == ""


def test_large_batches_are_split_and_errors_keep_their_places(kernel: Make) -> None:
    """Thousands of neighbours in several datagrams; the refused ones are told apart."""
    here = kernel()
    made(here, state_of(Bridge("n", "br0", "0a:58:00:00:00:01")))
    neighbors = [
        Neighbor("n", "br0", f"10.0.{number >> 8}.{number & 255}", "0a:58:00:00:00:02")
        for number in range(4000)
    ]
    requests = [neighbor.create(here) for neighbor in neighbors]
    assert sum(len(request) for request in requests) > MAX_BATCH_BYTES
    broken = (7, 2048, 3999)
    for index in broken:
        requests[index] = (
            requests[index][:20] + b"\xff\xff\xff\x7f" + requests[index][24:]
        )  # a link that does not exist
    with here.sandboxes.inside("n"), RouteSocket() as route:
        refusals = route.batch(requests)
    assert tuple(refusal.request for refusal in refusals) == broken
    assert len(ip(here, "n", "neighbor").splitlines()) == 4000 - len(broken)


@pytest.mark.parametrize("what", ["mac", "mtu", "alias", "master", "down"])
def test_every_setting_of_a_link_is_repaired(kernel: Make, what: str) -> None:
    """On either end of a pair, and of a bridge."""
    here = kernel()
    wanted = state_of(
        Bridge("node", "br0", "0a:58:00:00:00:01", alias="a bridge"),
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0", alias="an end"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02", alias="the other end", is_hairpin=True),
    )
    made(here, wanted)
    change = {
        "mac": ["address", "02:00:00:00:00:09"],
        "mtu": ["mtu", "1300"],
        "alias": ["alias", "mine"],
        "master": ["nomaster"],
        "down": ["down"],
    }[what]
    for netns, link in (
        ("node", "veth0"),
        *((("node", "br0"), ("pod", "eth0")) if what != "master" else ()),
    ):
        ip(here, netns, "link", "set", "dev", link, *change)
        assert difference(here, wanted) != "", f"{link} {what} is not seen"
        assert not here.apply(diff(HostState(here.observe(wanted.namespaces)), wanted)).failures
        assert difference(here, wanted) == "", f"{link} {what}"
