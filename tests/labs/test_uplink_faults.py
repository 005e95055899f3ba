"""Uplinks with obstacles, damage and conflicts."""

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
    REAL_SERVER,
    SERVER_PROGRAM,
    Machine,
    link_of,
    running_machine,
    seen_by_the_real_server,
)


def test_a_firewall_that_drops_packets_is_reported(lab: Lab, machine: Machine) -> None:
    """Docker's chain FORWARD drops unknown packets, regardless of other tables."""
    chain = "type filter hook forward priority 0; policy drop;"
    machine.output(
        "nft",
        f"add table ip filter; add chain ip filter FORWARD {{ {chain} }}; "
        "add chain ip filter OTHER",
    )
    link = next(word for word in lab.up(CLUSTER, "--uplink").err.split() if word.startswith("knl-"))
    machine.output(
        "sh",
        "-c",
        "".join(
            f"nft add rule ip filter FORWARD {key} {link} accept;" for key in ("iifname", "oifname")
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
    """Yield a lab of that machine; remove it after the test."""
    uplinked_lab = Lab(lab.name, prefix=machine.inside)
    yield uplinked_lab
    uplinked_lab.down()


def test_an_uplink_survives_a_killed_agent(lab: Lab, machine: Machine) -> None:
    """Packets continue, and the next agent knows the uplink."""
    lab.up(CLUSTER, "--uplink")
    lab.kill("agent")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    lab.run("scale", "deployment/coredns", "-n", "kube-system", "--replicas", "1")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the lab to be whole")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


def test_a_failed_uplink_is_reported_and_leaves_nothing(lab: Lab, machine: Machine) -> None:
    """The machine's routes cover all subnets.

    The lab runs without an uplink, and a later attempt succeeds.
    """
    for network in ("198.18.0.0/15", "fd6b:6e6c::/32"):
        machine.output("ip", "route", "add", network, "dev", "eth0")
    before = machine.state
    errors = lab.up(CLUSTER, "--uplink", status=1).err
    assert (
        "no free subnet in 198.18.0.0/15 for the uplink: the machine's routes cover all of them"
        in errors
    )
    assert machine.state == before
    assert lab.run("ping", "-o", "json").json["ok"]
    machine.output("ip", "route", "del", "198.18.0.0/15")
    machine.output("ip", "-6", "route", "del", "fd6b:6e6c::/32")
    lab.run("up", "--uplink")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


@pytest.mark.parametrize(
    "damage",
    [
        "ip link set {link} down",
        "ip address flush dev {link}",
        "sysctl -q net.ipv4.conf.{link}.route_localnet=0",
        "ip link delete {link}",
        "nft flush ruleset",
    ],
)
def test_up_repairs_a_damaged_uplink(lab: Lab, machine: Machine, damage: str) -> None:
    """The damage is manual, or from an interrupted command."""
    before = machine.state
    lab.up(CLUSTER, "--uplink")
    machine.output("sh", "-c", damage.format(link=link_of(machine)))
    lab.run("up", "--uplink")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    assert [
        server
        for server, _ in machine.ask(
            machine.inside, ("TCP", "127.0.0.1", 8080), ("TCP", MACHINE[6], 8080)
        )
    ] == ["web", "web"]
    lab.down()
    assert machine.state == before


def test_a_published_port_in_use_prevents_the_uplink(lab: Lab, machine: Machine) -> None:
    """The lab runs without an uplink until the port is free."""
    before = machine.state
    server = [
        *machine.inside,
        sys.executable,
        "-c",
        SERVER_PROGRAM.replace('("::", 8000)', '("::", 8080)').replace(REAL_SERVER[4], "127.0.0.1"),
    ]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        errors = lab.up(CLUSTER, "--uplink", status=1).err
        assert (
            "extraPortMappings: a program of this machine listens on 8080/TCP; "
            "take another hostPort" in errors
        )
        assert machine.state == before
        program.kill()
    lab.run("up", "--uplink")
    assert machine.ask(machine.real, ("TCP", MACHINE[4], 8080)) == [("web", REAL_SERVER[4])]


def test_an_uplink_that_cannot_be_recreated_is_removed_from_the_lab(
    lab: Lab, machine: Machine
) -> None:
    """Its link is deleted, and no subnet is free for a new one."""
    lab.up(CLUSTER, "--uplink")
    machine.output("ip", "link", "delete", link_of(machine))
    machine.output("ip", "route", "add", "198.18.0.0/15", "dev", "eth0")
    lab.run("up", "--uplink", status=1)
    assert lab.inspected["uplink"] == []
    lab.run("up", "--no-uplink")
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_forwarding_changed_by_others_is_kept(lab: Lab, machine: Machine, labs: Any) -> None:
    """Forwarding is switched on and off manually, and `up` repairs both labs.

    One lab is removed, and the other's packets continue. Forwarding that another process needs also
    stays when the last lab is removed.
    """
    other_lab = Lab(labs().name, prefix=machine.inside)
    lab.up(CLUSTER, "--uplink")
    other_lab.up(CLUSTER.replace("hostPort: 80", "hostPort: 81"), "--uplink")
    machine.output("sysctl", "-q", "net.ipv4.ip_forward=1")
    machine.output("sysctl", "-q", "net.ipv4.ip_forward=0")
    for each_lab in (lab, other_lab):
        each_lab.run("up", "--uplink")
        assert seen_by_the_real_server(each_lab, "web", 4) == MACHINE[4]
    lab.down()
    assert seen_by_the_real_server(other_lab, "web", 4) == MACHINE[4]
    machine.output("sysctl", "-q", "net.ipv4.ip_forward=1")
    other_lab.down()
    assert machine.output("sysctl", "-n", "net.ipv4.conf.eth0.forwarding").strip() == "1"


def test_an_uplink_is_ipv4_only_where_new_links_have_no_ipv6(lab: Lab, machine: Machine) -> None:
    """The lab itself has both families."""
    machine.output("sysctl", "-q", "net.ipv6.conf.default.disable_ipv6=1")
    lab.up(CLUSTER, "--uplink")
    assert [":" in address for address in lab.inspected["uplink"]] == [False]
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
def test_invalid_name_servers_are_skipped(
    lab: Lab, machine: Machine, tmp_path: Path, before: bytes
) -> None:
    """Cases: no address, no text, and the lab's own name server, which would query itself."""
    lab.up(CLUSTER, "--uplink")
    (tmp_path / "resolv.conf").write_bytes(before + f"nameserver {REAL_SERVER[4]}\n".encode())
    assert (
        lab.run("exec", "web", "--", "getent", "ahostsv4", "real.example").out.split()[0]
        == REAL_SERVER[4]
    )
