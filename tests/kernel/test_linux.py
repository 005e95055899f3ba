"""LinuxKernel on Linux: objects are applied and read back, drift is repaired."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Literal

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.netlink.rtnetlink import MAX_BATCH_BYTES, RouteSocket
from tests.clusters import DUAL, FAMILIES, deployment, service
from tests.kernel.states import Make, apply_desired, difference, ip, plan_netlink, state_of
from tests.patience import patiently

LAYOUTS = [
    ("onlink", "dynamic"),
    ("onlink", "permanent"),
    ("routed", "dynamic"),
    ("routed", "permanent"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("layout", "neighbors"), LAYOUTS)
def test_a_whole_plan_is_applied_and_read_back(
    kernel: Make, layout: str, neighbors: Literal["dynamic", "permanent"], family: str
) -> None:
    """All objects of a lab are created by one apply; then nothing differs."""
    linux, desired = (
        kernel(),
        plan_netlink(FAMILIES[family] + deployment(replicas=8) + service(), layout, neighbors),
    )
    report = linux.apply(diff(HostState(), desired))
    assert (report.failures, report.done) == ((), len(desired))
    assert difference(linux, desired) == ""


def test_a_removed_pod_receives_no_packets_of_its_successor(kernel: Make) -> None:
    """The namespace of a removed pod may exist for a while.

    A new pod with its address is reached at once nevertheless.
    """
    linux, address, mac = kernel(), "10.244.1.2", "0a:58:0a:f4:01:02"
    node = (Bridge("node", "cbr0", "0a:58:0a:f4:01:01"), Address("node", "cbr0", "10.244.1.1/24"))

    def with_pod(name: str, link: str) -> HostState:
        veth = Veth(name, "eth0", mac, "node", link)
        port = Port("node", link, "cbr0", "0a:59:0a:f4:01:02", is_hairpin=True)
        return state_of(*node, port, veth, Address(name, "eth0", f"{address}/24"))

    def connect() -> int:
        with linux.sandboxes.inside("node"), socket.socket() as client:
            client.settimeout(patiently(2))
            return client.connect_ex((address, 80))

    first, second = with_pod("first", "veth0"), with_pod("second", "veth1")
    apply_desired(linux, first)
    assert connect() == errno.ECONNREFUSED
    alive = linux.sandboxes.open("first")
    linux.apply(diff(first, second)).raise_failures()
    with linux.sandboxes.inside("second"):
        server = socket.create_server((address, 80))
    assert [connect() for _ in range(20)] == [0] * 20
    server.close()
    os.close(alive)


SWITCH = Bridge("switch", "br0", "0a:58:00:00:00:01")
UPLINK = Veth("node", "eth0", "0a:58:00:00:00:02", "switch", "node", alias="fabric: node")
UPLINK_PORT = Port("switch", "node", "br0", "0a:59:00:00:00:02", alias="fabric: node")


def test_a_new_namespace_has_the_links_of_one_that_still_ends(kernel: Make) -> None:
    """The kernel deletes the links of the former namespace after some delay."""
    linux, desired = kernel(), state_of(SWITCH, UPLINK_PORT, UPLINK)
    apply_desired(linux, desired)
    alive = linux.sandboxes.open("node")
    linux.sandboxes.remove("node")
    assert "node@" in ip(linux, "switch", "link")
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    os.close(alive)
    assert difference(linux, desired) == ""


def test_a_link_of_others_is_not_replaced(kernel: Make) -> None:
    """It has the name of the lab's link by chance; the message says what to do."""
    linux = kernel()
    apply_desired(linux, state_of(SWITCH))
    ip(linux, "switch", "link", "add", "node", "type", "veth", "peer", "name", "other")
    ip(linux, "switch", "link", "set", "node", "alias", "mine")
    desired = state_of(SWITCH, UPLINK_PORT, UPLINK)
    failures = linux.apply(diff(state_of(SWITCH), desired)).failures
    assert "another object has its name or address" in str(failures[0])
    assert "mine" in ip(linux, "switch", "link", "show", "node")


DRIFT_COMMANDS = (
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
"""Changes to a node, as arguments of `ip`."""


@pytest.mark.first_kernel
def test_drift_is_detected_and_repaired(kernel: Make) -> None:
    """Each kind of drift is repaired by at most three applies."""
    linux, desired = kernel(), plan_netlink(DUAL + deployment(replicas=4), "onlink", "permanent")
    apply_desired(linux, desired)
    for command in DRIFT_COMMANDS:
        ip(linux, "node/worker", *command.split())
        assert difference(linux, desired) != "", command
        for _ in range(3):
            linux.apply(diff(HostState(linux.observe(desired.namespaces)), desired))
            if not difference(linux, desired):
                break
        assert difference(linux, desired) == "", command


@pytest.mark.parametrize(
    ("command", "show"),
    [
        ("address add 192.0.2.1/24 dev eth0", "address"),
        ("route add 192.0.2.0/24 via 172.18.0.2", "route"),
        ("neighbor add 172.18.0.99 lladdr 0a:58:00:00:00:09 dev eth0", "neighbor"),
        ("link add mine type bridge", "link"),
    ],
)
def test_objects_that_others_added_are_left_alone(kernel: Make, command: str, show: str) -> None:
    """Objects beside the lab's own are no drift, and remain after the next apply."""
    linux, desired = kernel(), plan_netlink(deployment(replicas=4), "onlink", "permanent")
    apply_desired(linux, desired)
    ip(linux, "node/worker", *command.split())
    assert difference(linux, desired) == ""
    before = ip(linux, "node/worker", show)
    apply_desired(linux, plan_netlink(deployment(replicas=5), "onlink", "permanent"))
    assert ("mine" if show == "link" else command.split()[2]) in ip(linux, "node/worker", show), (
        before
    )


def test_a_changed_sysctl_is_restored(kernel: Make) -> None:
    """All sysctls of a namespace are set and compared, whatever the machine's defaults."""
    linux, desired = kernel(), plan_netlink()
    apply_desired(linux, desired)
    with linux.sandboxes.inside("node/worker"):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    assert "sysctl net.ipv4.ip_forward = 1    (was: sysctl net.ipv4.ip_forward = 0)" in difference(
        linux, desired
    )
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""


def test_a_refusal_names_the_object_and_the_kernels_reason(kernel: Make) -> None:
    """The other operations of the batch are done."""
    linux = kernel()
    apply_desired(linux, state_of(Bridge("n", "br0", "0a:58:00:00:00:01")))
    desired = state_of(
        Bridge("n", "br0", "0a:58:00:00:00:01"),
        Address("n", "br0", "10.0.0.1/24"),
        Route("n", "10.9.0.0/16", "br0", via="192.0.2.1"),
        Route("n", "10.8.0.0/16", "br0", via="10.0.0.9"),
    )
    report = linux.apply(diff(HostState(linux.observe(desired.namespaces)), desired))
    (failure,) = report.failures
    assert str(failure).splitlines() == [
        "n: cannot add route 10.9.0.0/16 via 192.0.2.1 dev br0",
        "  kernel: Nexthop has invalid gateway (ENETUNREACH)",
        "  → no address of that device shares a subnet with the gateway: see kubenetlab diff",
    ]
    assert "10.8.0.0/16 via 10.0.0.9" in ip(linux, "n", "route")


def test_a_failed_namespace_leaves_nothing_behind(kernel: Make) -> None:
    """Neither its process nor links on either side remain; other namespaces are created."""
    linux = kernel()
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
    report = linux.apply(diff(HostState(), state_of(*good, *bad)))
    assert {failure.netns for failure in report.failures} == {"bad"}
    assert sorted(linux.sandboxes.pids) == ["node", "pod"]
    deadline = time.monotonic() + patiently(5)
    while "veth1" in ip(linux, "node", "link") and time.monotonic() < deadline:
        pass
    assert "veth1" not in ip(linux, "node", "link")
    assert "veth0" in ip(linux, "node", "link")


def test_links_into_a_failed_namespace_are_failures_too(
    kernel: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links are created before the pause process of the peer's namespace starts.

    If that fails, the links disappear together with the namespace.
    """
    linux = kernel()
    hold = linux.sandboxes.hold

    def fail_for_node(sandbox: Sandbox, network: int | None) -> None:
        if sandbox.netns != "node":
            hold(sandbox, network)
            return
        if network is not None:
            os.close(network)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(linux.sandboxes, "hold", fail_for_node)
    desired = state_of(
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02", alias="a pod"),
        Bridge("other", "br0", "0a:58:00:00:00:03"),
    )
    done: list[str] = []
    report = linux.apply(diff(HostState(), desired), done.append)
    failures = [(failure.netns, failure.errno) for failure in report.failures]
    assert failures[:2] == [("node", errno.EAGAIN), ("pod", errno.ENODEV)]
    assert failures[2:] in (
        [],
        [("node", errno.ENODEV)],
    )  # a slow kernel still has the namespace when the port is asked for
    assert sorted(linux.sandboxes.pids) == ["other"]
    assert sorted(done) == ["node", "other", "pod"]
    monkeypatch.undo()
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""


def test_large_batches_are_split_and_errors_keep_their_index(kernel: Make) -> None:
    """Thousands of neighbours take several datagrams; refusals name the right requests."""
    linux = kernel()
    apply_desired(linux, state_of(Bridge("n", "br0", "0a:58:00:00:00:01")))
    neighbors = [
        Neighbor("n", "br0", f"10.0.{number >> 8}.{number & 255}", "0a:58:00:00:00:02")
        for number in range(4000)
    ]
    requests = [neighbor.create(linux) for neighbor in neighbors]
    assert sum(len(request) for request in requests) > MAX_BATCH_BYTES
    broken = (7, 2048, 3999)
    for index in broken:
        requests[index] = (
            requests[index][:20] + b"\xff\xff\xff\x7f" + requests[index][24:]
        )  # a link that does not exist
    with linux.sandboxes.inside("n"), RouteSocket() as route:
        refusals = route.batch(requests)
    assert tuple(refusal.request for refusal in refusals) == broken
    assert len(ip(linux, "n", "neighbor").splitlines()) == 4000 - len(broken)


def test_all_refusals_of_a_large_batch_are_reported(kernel: Make) -> None:
    """The kernel drops replies that do not fit into the receive buffer of a socket."""
    linux = kernel()
    apply_desired(linux, state_of(Bridge("n", "br0", "0a:58:00:00:00:01")))
    absent = [(f"10.0.{number >> 8}.{number & 255}", "0a:58:00:00:00:02") for number in range(2000)]
    requests = [Neighbor("n", "br0", *entry).delete(linux) for entry in absent]
    with linux.sandboxes.inside("n"), RouteSocket() as route:
        refusals = route.batch(requests)
        assert [refusal.request for refusal in refusals] == list(range(len(requests)))
        mesh = Peers("n", "br0", tuple(absent))
        assert [refusal.request for refusal in route.batch([mesh.delete(linux)])] == [0]


def test_a_link_of_another_kind_is_replaced(kernel: Make) -> None:
    """The objects that depend on the link are created again."""
    linux = kernel()
    desired = state_of(Bridge("n", "br0", "0a:58:00:00:00:01"), Address("n", "br0", "192.0.2.1/24"))
    apply_desired(linux, desired)
    ip(linux, "n", "link", "delete", "br0")
    ip(linux, "n", *["link", "add", "br0", "type", "veth", "peer", "name", "other"])
    assert "(was: veth br0)" in difference(linux, desired)
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""
    assert "bridge" in ip(linux, "n", "-details", "link", "show", "br0")


@pytest.mark.parametrize("attribute", ["mac", "mtu", "alias", "master", "down"])
def test_every_attribute_of_a_link_is_repaired(kernel: Make, attribute: str) -> None:
    """Both ends of a veth pair and a bridge are covered."""
    linux = kernel()
    desired = state_of(
        Bridge("node", "br0", "0a:58:00:00:00:01", alias="a bridge"),
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0", alias="an end"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02", alias="the other end", is_hairpin=True),
    )
    apply_desired(linux, desired)
    arguments = {
        "mac": ["address", "02:00:00:00:00:09"],
        "mtu": ["mtu", "1300"],
        "alias": ["alias", "mine"],
        "master": ["nomaster"],
        "down": ["down"],
    }[attribute]
    for netns, link in (
        ("node", "veth0"),
        *((("node", "br0"), ("pod", "eth0")) if attribute != "master" else ()),
    ):
        ip(linux, netns, "link", "set", "dev", link, *arguments)
        assert difference(linux, desired) != "", f"{link} {attribute} is not detected"
        assert not linux.apply(diff(HostState(linux.observe(desired.namespaces)), desired)).failures
        assert difference(linux, desired) == "", f"{link} {attribute}"
