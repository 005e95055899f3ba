"""The uplink when something is in its way, damaged or taken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.uplink_machine import (
    CLUSTER,
    MACHINE,
    REAL,
    SERVERS,
    Machine,
    link_of,
    running_machine,
    seen_by_the_real_server,
)


def test_a_firewall_in_the_way_is_told(lab: Lab, machine: Machine) -> None:
    """Docker's chain FORWARD drops what it does not know, whatever other tables accept."""
    chain = "type filter hook forward priority 0; policy drop;"
    machine.said(
        "nft",
        f"add table ip filter; add chain ip filter FORWARD {{ {chain} }}; add chain ip filter OTHER",
    )
    link = next(word for word in lab.up(CLUSTER, "--uplink").err.split() if word.startswith("knl-"))
    machine.said(
        "sh",
        "-c",
        "".join(
            f"nft add rule ip filter FORWARD {way} {link} accept;" for way in ("iifname", "oifname")
        ),
    )
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    assert (
        "ip filter FORWARD of this machine drops forwarded packets" in lab.run("up", "--uplink").err
    )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with running_machine(tmp_path) as machine:
        yield machine


@pytest.fixture
def lab(lab: Lab, machine: Machine) -> Iterator[Lab]:
    """A lab of that machine; gone after the test."""
    there = Lab(lab.name, before=machine.inside)
    yield there
    there.down()


def test_a_killed_agent_finds_it(lab: Lab, machine: Machine) -> None:
    """Packets go on, and the next one knows of it."""
    lab.up(CLUSTER, "--uplink")
    lab.kill("agent")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    lab.run("scale", "deployment/coredns", "-n", "kube-system", "--replicas", "1")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the lab to be whole")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


def test_what_cannot_be_made_is_told_and_leaves_nothing(lab: Lab, machine: Machine) -> None:
    """The machine's routes leave no room: the lab is there, and goes without; nothing has changed,
    and a later try succeeds.
    """
    for network in ("198.18.0.0/15", "fd6b:6e6c::/32"):
        machine.said("ip", "route", "add", network, "dev", "eth0")
    before = machine.state
    said = lab.up(CLUSTER, "--uplink", status=1).err
    assert (
        "no free subnet in 198.18.0.0/15 for the uplink: the machine's routes cover all of them"
        in said
    )
    assert machine.state == before
    assert lab.run("ping", "-o", "json").json["ok"]
    machine.said("ip", "route", "del", "198.18.0.0/15")
    machine.said("ip", "-6", "route", "del", "fd6b:6e6c::/32")
    lab.run("up", "--uplink")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


@pytest.mark.parametrize(
    "harm",
    [
        "ip link set {link} down",
        "ip address flush dev {link}",
        "sysctl -q net.ipv4.conf.{link}.route_localnet=0",
        "ip link delete {link}",
        "nft flush ruleset",
    ],
)
def test_what_is_there_of_it_is_brought_into_line(lab: Lab, machine: Machine, harm: str) -> None:
    """Somebody's hand, or a command that ended in the middle: the next one makes it whole."""
    before = machine.state
    lab.up(CLUSTER, "--uplink")
    machine.said("sh", "-c", harm.format(link=link_of(machine)))
    lab.run("up", "--uplink")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    assert [
        who
        for who, _ in machine.ask(
            machine.inside, ("TCP", "127.0.0.1", 8080), ("TCP", MACHINE[6], 8080)
        )
    ] == ["web", "web"]
    lab.down()
    assert machine.state == before


def test_a_port_that_the_machine_has_itself_is_left_to_it(lab: Lab, machine: Machine) -> None:
    """The lab is there and goes without; when the port is free, the uplink can be had."""
    before = machine.state
    server = [
        *machine.inside,
        sys.executable,
        "-c",
        SERVERS.replace('("::", 8000)', '("::", 8080)').replace(REAL[4], "127.0.0.1"),
    ]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as own:
        assert own.stdout is not None
        assert own.stdout.readline() == "up\n"
        said = lab.up(CLUSTER, "--uplink", status=1).err
        assert (
            "extraPortMappings: a program of this machine listens on 8080/TCP; take another hostPort"
            in said
        )
        assert machine.state == before
        own.kill()
    lab.run("up", "--uplink")
    assert machine.ask(machine.real, ("TCP", MACHINE[4], 8080)) == [("web", REAL[4])]


def test_an_uplink_that_cannot_be_made_again_is_none(lab: Lab, machine: Machine) -> None:
    """Its link is gone, and there is no room for another: the lab is told, and wants none any more."""
    lab.up(CLUSTER, "--uplink")
    machine.said("ip", "link", "delete", link_of(machine))
    machine.said("ip", "route", "add", "198.18.0.0/15", "dev", "eth0")
    lab.run("up", "--uplink", status=1)
    assert lab.seen["uplink"] == []
    lab.run("up", "--no-uplink")
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_settings_that_others_make_meanwhile_stay(lab: Lab, machine: Machine, labs: Any) -> None:
    """Somebody has switched forwarding on and off, and both labs were brought into line: one goes,
    the other's packets go on. And what forwards for somebody else when the last goes, goes on, too.
    """
    other = Lab(labs().name, before=machine.inside)
    lab.up(CLUSTER, "--uplink")
    other.up(CLUSTER.replace("hostPort: 80", "hostPort: 81"), "--uplink")
    machine.said("sysctl", "-q", "net.ipv4.ip_forward=1")
    machine.said("sysctl", "-q", "net.ipv4.ip_forward=0")
    for one in (lab, other):
        one.run("up", "--uplink")
        assert seen_by_the_real_server(one, "web", 4) == MACHINE[4]
    lab.down()
    assert seen_by_the_real_server(other, "web", 4) == MACHINE[4]
    machine.said("sysctl", "-q", "net.ipv4.ip_forward=1")
    other.down()
    assert machine.said("sysctl", "-n", "net.ipv4.conf.eth0.forwarding").strip() == "1"


def test_a_machine_without_ipv6_on_new_links(lab: Lab, machine: Machine) -> None:
    """A lab of both families goes along by IPv4."""
    machine.said("sysctl", "-q", "net.ipv6.conf.default.disable_ipv6=1")
    lab.up(CLUSTER, "--uplink")
    assert [":" in address for address in lab.seen["uplink"]] == [False]
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


@pytest.mark.parametrize(
    "before",
    [
        b"nameserver garbage\n",
        b"nameserver 192.0.2.1:53\n",
        b"# caf\xe9\n",
        b"nameserver 10.96.0.10\n",
    ],
)
def test_name_servers_that_are_none_are_passed_over(
    lab: Lab, machine: Machine, tmp_path: Path, before: bytes
) -> None:
    """What is no address, what is no text, and the lab's own, which would ask itself without end."""
    lab.up(CLUSTER, "--uplink")
    (tmp_path / "resolv.conf").write_bytes(before + f"nameserver {REAL[4]}\n".encode())
    assert (
        lab.run("exec", "web", "--", "getent", "ahostsv4", "real.example").out.split()[0] == REAL[4]
    )
