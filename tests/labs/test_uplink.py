"""The uplink: labs reach the network of the machine, whose ports lead to the lab.

Nothing stays behind.
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
    REAL_SERVER,
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
    """Yield a lab of that machine; remove it after the test."""
    uplinked_lab = Lab(lab.name, prefix=machine.inside)
    yield uplinked_lab
    uplinked_lab.down()


@pytest.mark.parametrize("version", [4, 6])
def test_pods_nodes_and_external_hosts_reach_the_machines_network(
    lab: Lab, machine: Machine, version: int
) -> None:
    """Servers there see the machine's address.

    They cannot reach pods, and the lab's own connectivity is unchanged.
    """
    lab.up(CLUSTER, "--uplink")
    for place in ("web", "node:worker", "ext:client"):
        assert seen_by_the_real_server(lab, place, version) == MACHINE[version]
    pod = next(
        address for address in lab.pod("web")["addresses"] if (":" in address) == (version == 6)
    )
    machine.output(
        "ip",
        f"-{version}",
        "route",
        "add",
        pod,
        "via",
        next(
            uplink_address
            for uplink_address in lab.inspected["uplink"]
            if (":" in uplink_address) == (version == 6)
        ),
    )
    assert machine.ask(machine.inside, ("TCP", pod, 8080))[0][0] != "web"
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_published_ports_answer_on_the_machine(lab: Lab, machine: Machine) -> None:
    """With the policy Local, the pod sees clients of the real network.

    For clients on the machine's loopback, it sees the machine's end of the uplink.
    """
    lab.up(CLUSTER, "--uplink")
    for version in (4, 6):
        targets = (
            ("TCP", MACHINE[version], 8080),
            ("UDP", MACHINE[version], 8081),
            ("TCP", MACHINE[version], 9090),
        )
        assert machine.ask(machine.real, *targets) == [
            ("web", REAL_SERVER[version]),
            ("web", REAL_SERVER[version]),
            ("refused", ""),
        ]
    machine_end = next(
        word
        for word in machine.output("ip", "-br", "-4", "address").split()
        if word.startswith(("198.18.", "198.19."))
    ).partition("/")[0]
    answers = machine.ask(
        machine.inside,
        *(("TCP", "127.0.0.1", port) for port in (8080, 9090)),
        ("TCP", MACHINE[4], 8080),
    )
    assert answers == [("web", machine_end), ("web", machine_end), ("web", MACHINE[4])]


def test_the_machines_name_servers_resolve_external_names(lab: Lab, machine: Machine) -> None:
    """Names that they do not know do not exist; CoreDNS resolves the cluster's names."""
    lab.up(CLUSTER, "--uplink")
    look_up = ("exec", "web", "--", "getent", "ahostsv4")
    assert lab.run(*look_up, "real.example").out.split()[0] == REAL_SERVER[4]
    assert lab.run(*look_up, "web.default.svc.cluster.local").out.startswith("10.96.")
    lab.run(*look_up, "unknown.example", status=2)
    lab.run("up", "--no-uplink")
    lab.run(*look_up, "real.example", status=2)


def test_an_uplink_can_be_added_and_removed(lab: Lab, machine: Machine) -> None:
    """Nothing else changes in the lab, and the machine is restored."""
    before = machine.state
    lab.up(CLUSTER)
    without_uplink = lab.inspected
    assert machine.state == before
    assert (
        lab.run(
            "exec",
            "web",
            "--",
            "curl",
            "-s",
            "-m",
            "2",
            f"http://{REAL_SERVER[4]}:8000/",
            status=None,
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
        lab.run("up", "--uplink")  # a repetition changes nothing
    assert {**lab.inspected, "uplink": []} == without_uplink
    assert {
        line[0]
        for entry in lab.run("plan", "--no-uplink", "-o", "json").json
        for line in entry["operations"]
    } == {"-"}
    lab.run("up", "--no-uplink")
    assert machine.state == before
    assert lab.inspected == without_uplink
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


@pytest.mark.parametrize("how", ["down", "init"])
def test_nothing_of_an_uplink_stays(lab: Lab, machine: Machine, how: str) -> None:
    """`down` removes it; after a kill of init, the next command removes it."""
    before = machine.state
    lab.up(CLUSTER, "--uplink")
    assert machine.state != before
    if how == "down":
        lab.down()
    else:
        os.kill(lab.inspected["init_pid"], signal.SIGKILL)
        wait_for(lambda: "knl-" not in machine.state["links"], "the link to be gone with the lab")
        subprocess.run(
            [*machine.inside, *COMMAND, "list"], check=True, capture_output=True, timeout=30
        )
    assert machine.state == before


def test_two_labs_have_separate_uplinks(lab: Lab, machine: Machine, labs: Any) -> None:
    """The labs have the same addresses.

    Removing one uplink does not affect the other.
    """
    before = machine.state
    other_lab = Lab(labs().name, prefix=machine.inside)
    lab.up(CLUSTER, "--uplink")
    other_lab.up(CLUSTER.replace("hostPort: 80", "hostPort: 81"), "--uplink")
    assert lab.inspected["uplink"] != other_lab.inspected["uplink"]
    for each_lab in (lab, other_lab):
        assert seen_by_the_real_server(each_lab, "web", 4) == MACHINE[4]
    assert [
        server
        for server, _ in machine.ask(
            machine.real, ("TCP", MACHINE[4], 8080), ("TCP", MACHINE[4], 8180)
        )
    ] == ["web", "web"]
    lab.down()
    assert seen_by_the_real_server(other_lab, "web", 4) == MACHINE[4]
    other_lab.down()
    assert machine.state == before


def test_an_uplink_needs_root(machine: Machine) -> None:
    """The message precedes the creation of the lab."""
    with user(NOBODY) as nobody:
        errors = nobody.run("up", "--lab", "t", "--uplink", status=1).err
        assert "uplink needs root of the machine (a link to the machine's own network)" in errors
        assert not (nobody.run_directory / "kubenetlab" / "t").exists()
