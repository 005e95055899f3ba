"""The uplink: the lab reaches what the machine reaches, published ports are the machine's, and
nothing stays behind.

The machine is a namespace of its own here, linked to a “real network” with a server; what plays no
part is not touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.labs.lab import COMMAND, Lab, wait_for
from tests.labs.uplink_machine import (
    CLUSTER,
    MACHINE,
    REAL,
    Machine,
    running_machine,
    seen_by_the_real_server,
)
from tests.labs.users import NOBODY, user


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


@pytest.mark.parametrize("version", [4, 6])
def test_pods_reach_the_machines_network(lab: Lab, machine: Machine, version: int) -> None:
    """As the machine itself; so do nodes and the lab's internet.

    Nobody outside reaches them, and what the lab promises holds.
    """
    lab.up(CLUSTER, "--uplink")
    for place in ("web", "node:worker", "ext:client"):
        assert seen_by_the_real_server(lab, place, version) == MACHINE[version]
    pod = next(
        address for address in lab.pod("web")["addresses"] if (":" in address) == (version == 6)
    )
    machine.said(
        "ip",
        f"-{version}",
        "route",
        "add",
        pod,
        "via",
        next(one for one in lab.seen["uplink"] if (":" in one) == (version == 6)),
    )
    assert machine.ask(machine.inside, ("TCP", pod, 8080))[0][0] != "web"
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_published_ports_are_the_machines(lab: Lab, machine: Machine) -> None:
    """From the real network the pod sees the client itself, as the policy Local has it; from the
    machine's loopback the machine's end.
    """
    lab.up(CLUSTER, "--uplink")
    for version in (4, 6):
        targets = (
            ("TCP", MACHINE[version], 8080),
            ("UDP", MACHINE[version], 8081),
            ("TCP", MACHINE[version], 9090),
        )
        assert machine.ask(machine.real, *targets) == [
            ("web", REAL[version]),
            ("web", REAL[version]),
            ("refused", ""),
        ]
    end = next(
        one
        for one in machine.said("ip", "-br", "-4", "address").split()
        if one.startswith(("198.18.", "198.19."))
    ).partition("/")[0]
    found = machine.ask(
        machine.inside,
        *(("TCP", "127.0.0.1", port) for port in (8080, 9090)),
        ("TCP", MACHINE[4], 8080),
    )
    assert found == [("web", end), ("web", end), ("web", MACHINE[4])]


def test_names_outside_are_the_machines_servers_business(lab: Lab, machine: Machine) -> None:
    """What nobody knows there does not exist; the cluster's own names stay CoreDNS'."""
    lab.up(CLUSTER, "--uplink")
    look_up = ("exec", "web", "--", "getent", "ahostsv4")
    assert lab.run(*look_up, "real.example").out.split()[0] == REAL[4]
    assert lab.run(*look_up, "web.default.svc.cluster.local").out.startswith("10.96.")
    lab.run(*look_up, "unknown.example", status=2)
    lab.run("up", "--no-uplink")
    lab.run(*look_up, "real.example", status=2)


def test_it_comes_and_goes_on_a_running_lab(lab: Lab, machine: Machine) -> None:
    """Nothing of the lab is another, and of the machine all is as it was."""
    before = machine.state
    lab.up(CLUSTER)
    made = lab.seen
    assert machine.state == before
    assert (
        lab.run(
            "exec", "web", "--", "curl", "-s", "-m", "2", f"http://{REAL[4]}:8000/", status=None
        ).out
        == ""
    )
    link = next(
        line
        for line in lab.run("plan", "--uplink", "-o", "json").json[0]["operations"]
        if line.startswith("+ link ")
    )
    for _ in range(2):
        lab.run("up", "--uplink")
        assert link.split()[2].rstrip(",") in machine.state["links"]
        assert lab.run("plan", "--uplink", "-o", "json").json == []
        assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
        lab.run("up", "--uplink")  # once more: it is there
    assert {**lab.seen, "uplink": []} == made
    assert {
        line[0]
        for entry in lab.run("plan", "--no-uplink", "-o", "json").json
        for line in entry["operations"]
    } == {"-"}
    lab.run("up", "--no-uplink")
    assert machine.state == before
    assert lab.seen == made
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


@pytest.mark.parametrize("how", ["down", "init"])
def test_nothing_of_it_stays(lab: Lab, machine: Machine, how: str) -> None:
    """After `down`; after init was killed, by whichever command is next."""
    before = machine.state
    lab.up(CLUSTER, "--uplink")
    assert machine.state != before
    if how == "down":
        lab.down()
    else:
        os.kill(lab.seen["init_pid"], signal.SIGKILL)
        wait_for(lambda: "knl-" not in machine.state["links"], "the link to be gone with the lab")
        subprocess.run(
            [*machine.inside, *COMMAND, "list"], check=True, capture_output=True, timeout=30
        )
    assert machine.state == before


def test_two_labs_have_one_each(lab: Lab, machine: Machine, labs: Any) -> None:
    """With the same addresses inside; the first to go leaves the other its way."""
    before = machine.state
    other = Lab(labs().name, before=machine.inside)
    lab.up(CLUSTER, "--uplink")
    other.up(CLUSTER.replace("hostPort: 80", "hostPort: 81"), "--uplink")
    assert lab.seen["uplink"] != other.seen["uplink"]
    for one in (lab, other):
        assert seen_by_the_real_server(one, "web", 4) == MACHINE[4]
    assert [
        who
        for who, _ in machine.ask(
            machine.real, ("TCP", MACHINE[4], 8080), ("TCP", MACHINE[4], 8180)
        )
    ] == ["web", "web"]
    lab.down()
    assert seen_by_the_real_server(other, "web", 4) == MACHINE[4]
    other.down()
    assert machine.state == before


def test_an_ordinary_user_is_told(machine: Machine) -> None:
    """Before anything is made."""
    with user(NOBODY) as nobody:
        said = nobody.run("up", "--lab", "t", "--uplink", status=1).err
        assert "uplink needs root of the machine (a link to the machine's own network)" in said
        assert not (nobody.run_directory / "kubenetlab" / "t").exists()
