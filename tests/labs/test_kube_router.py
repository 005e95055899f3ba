"""The CNI mode kube-router: packets between pods by routes of BIRD, and BIRD as a daemon."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import SHORTLY, Lab, cmdline, run, wait_for
from tests.labs.pod_networks import manifest
from tests.patience import patiently

pytestmark = pytest.mark.skipif(
    not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"
)
WITHOUT_GRACEFUL_RESTART = "{type: kube-router, bgpGracefulRestart: false}"


def bird_routes(lab: Lab, node: str) -> dict[str, str]:
    """Return the destination and the next hop of each route that BIRD has added on a node."""
    place = lab.place("nodes", node)
    return {
        route["dst"]: route["gateway"]
        for option in ("-4", "-6")
        for route in json.loads(
            lab.inside(place, "ip", "-j", option, "route", "show", "proto", "bird")
        )
    }


def learned(lab: Lab, node: str) -> dict[str, str]:
    """Return the routes that a node should have learned from all others."""
    return {
        cidr: address
        for other in lab.inspected["nodes"]
        if other["name"] != node
        for cidr, address in zip(other["pod_cidrs"], other["addresses"], strict=True)
    }


def has_converged(lab: Lab) -> bool:
    return all(
        bird_routes(lab, node["name"]) == learned(lab, node["name"])
        for node in lab.inspected["nodes"]
    )


def birds(lab: Lab) -> list[int]:
    """Return the machine's pids of BIRD on all nodes."""
    return sorted(lab.pids("bird"))


def asks(lab: Lab, source: Any, target: Any) -> bool:
    return all(
        answer.server and answer.client[0] in source["addresses"]
        for answer in lab.ask(source, *(("TCP", each, 8080) for each in target["addresses"]))
    )


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
def test_up_waits_for_bgp(lab: Lab, family: str) -> None:
    """Right after it every node has a route to the pods of every other node."""
    lab.up(manifest(family, "kube-router"))
    assert has_converged(lab)
    assert lab.problems == []


def test_up_waits_for_routes_that_were_lost(lab: Lab) -> None:
    """The lab has been ready before; a session was closed by hand and opens again."""
    lab.up(manifest("ipv4", "kube-router"))
    session = "Mesh_" + lab.place("nodes", "worker2")["addresses"][0].replace(".", "_")
    target = ("TCP", lab.pod("c")["addresses"][0], 8080)
    for command in ("disable", "enable"):
        lab.run("exec", "node:worker", "--", "birdc", command, session)
    lab.up(manifest("ipv4", "kube-router"))
    assert lab.ask(lab.pod("a"), target)[0].server


def test_birdc_shows_the_sessions(lab: Lab) -> None:
    """As on a node of a cluster: without options, and with the log in /var/log."""
    lab.up(manifest("ipv4", "kube-router"))
    shown = lab.run("exec", "node:worker", "--", "birdc", "show", "protocols").out
    sessions = [line.split() for line in shown.splitlines() if " BGP " in line]
    assert [(words[0], words[-1]) for words in sessions] == [
        ("Mesh_172_18_0_2", "Established"),
        ("Mesh_172_18_0_4", "Established"),
    ]
    assert "Started" in lab.run("exec", "node:worker", "--", "cat", "/var/log/bird.log").out
    writing = lab.run("exec", "node:worker", "--", "sh", "-c", "> /var/log/bird.log", status=None)
    assert writing.status != 0


def test_a_node_that_is_added_is_reached_from_all_others(lab: Lab) -> None:
    """BIRD of the other nodes is reloaded, not restarted; a removed node's routes go."""
    lab.up(manifest("dual", "kube-router"))
    before = birds(lab)
    lab.run("up", "--nodes", "4")
    assert has_converged(lab)
    assert len(learned(lab, "worker")) == 6
    assert set(before) < set(birds(lab))
    assert lab.problems == []
    lab.run("up", "--nodes", "3")
    wait_for(lambda: has_converged(lab), "the routes to be withdrawn")
    assert birds(lab) == before
    assert lab.problems == []


def test_a_killed_bird_is_restarted_and_no_route_is_lost(lab: Lab) -> None:
    """Graceful restart: neither this node nor another one drops a route meanwhile."""
    lab.up(manifest("ipv4", "kube-router"))
    a, c = lab.pod("a"), lab.pod("c")
    before = birds(lab)
    os.kill(before[0], signal.SIGKILL)

    def is_restarted() -> bool:
        assert has_converged(lab)
        assert asks(lab, a, c)
        assert asks(lab, c, a)
        return len(birds(lab)) == 3 and before[0] not in birds(lab)

    wait_for(is_restarted, "a new BIRD")
    wait_for(lambda: established(lab) == 6, "its sessions")
    assert has_converged(lab)
    assert lab.problems == []
    assert "daemon bird ended (signal 9)" in (lab.directory / "log").read_text()


def established(lab: Lab) -> int:
    """Return the number of established sessions on all nodes."""
    return sum(
        lab.run("exec", f"node:{node['name']}", "--", "birdc", "show", "protocols").out.count(
            "Established"
        )
        for node in lab.inspected["nodes"]
    )


def test_without_graceful_restart_routes_come_back(lab: Lab) -> None:
    """The other nodes drop them while BIRD does not run."""
    lab.up(manifest("ipv4", WITHOUT_GRACEFUL_RESTART))
    before = birds(lab)
    os.kill(before[-1], signal.SIGKILL)
    wait_for(lambda: before[-1] not in birds(lab) and len(birds(lab)) == 3, "a new BIRD")
    wait_for(lambda: established(lab) == 6 and has_converged(lab), "the routes")
    assert lab.problems == []


def test_a_killed_agent_moves_nothing(lab: Lab) -> None:
    """A new agent takes over BIRD as it runs; it repairs what was changed meanwhile."""
    lab.up(manifest("dual", "kube-router"))
    before = birds(lab)
    lab.kill("agent")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the new agent")
    assert birds(lab) == before
    assert has_converged(lab)
    lab.run("up", "--nodes", "4")
    assert set(before) < set(birds(lab))
    assert has_converged(lab)
    assert lab.problems == []


def test_a_bird_that_does_not_run_is_a_difference(lab: Lab) -> None:
    """A stopped session, too: `diff` names the routes that are missing."""
    lab.up(manifest("ipv4", WITHOUT_GRACEFUL_RESTART))
    lab.run("exec", "node:worker", "--", "birdc", "disable", "Mesh_172_18_0_4")
    missing = "+ route 10.244.2.0/24 of daemon bird"
    wait_for(lambda: missing in lab.run("diff", status=None).out, "the missing route")
    assert lab.run("diff", status=1).out.count("route") == 2  # on both ends
    lab.run("exec", "node:worker", "--", "birdc", "enable", "Mesh_172_18_0_4")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the session")
    broken = "echo nonsense > /etc/bird/bird.conf; birdc configure; kill $(pidof bird)"

    def is_missing() -> bool:
        lab.run("exec", "node:worker", "--", "sh", "-c", broken, status=None)
        return "+ daemon bird" in lab.run("diff", status=None).out

    wait_for(is_missing, "the missing daemon")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    assert has_converged(lab)


def test_an_edited_configuration_is_repaired_and_read_again(lab: Lab) -> None:
    """Also if BIRD was told to read the edited one."""
    lab.up(manifest("ipv4", WITHOUT_GRACEFUL_RESTART))
    before = birds(lab)
    edit = "sed -i /blackhole/d /etc/bird/bird.conf; birdc configure"
    lab.run("exec", "node:worker", "--", "sh", "-c", edit)
    node = lab.place("nodes", "worker")
    (cidr,) = node["pod_cidrs"]
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    wait_for(lambda: bird_routes(lab, "worker2").get(cidr) == node["addresses"][0], "its route")
    assert birds(lab) == before
    assert lab.problems == []


def test_routes_of_others_are_left_to_bird(lab: Lab) -> None:
    """A deleted route is added again by BIRD; the lab neither removes nor reports its routes."""
    lab.up(manifest("ipv4", "kube-router"))
    assert not [line for line in lab.run("diff").out.splitlines() if "proto" in line]
    lab.inside(lab.place("nodes", "worker"), "ip", "route", "del", "10.244.2.0/24")
    lab.run("exec", "node:worker", "--", "birdc", "reload", "all")
    wait_for(lambda: has_converged(lab), "BIRD to add the route again")
    assert lab.problems == []


def test_nothing_is_left_of_bird(lab: Lab) -> None:
    """It ends with the lab, also if init is killed."""
    lab.up(manifest("ipv4", "kube-router"))
    running = birds(lab)
    os.kill(lab.inspected["init_pid"], signal.SIGKILL)
    wait_for(lambda: not any(map(cmdline, running)), "the end of all processes")
    lab.up(manifest("ipv4", "kube-router"))
    assert has_converged(lab)
    lab.down()
    assert lab.leftovers == []


def test_without_bird_the_mode_is_refused(lab: Lab) -> None:
    """Before anything is made; the message names Debian's package. `doctor` lists the mode."""
    without_bird = 'mount --bind /dev/null "$(command -v bird)" && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", without_bird, "sh")
    refused = run("up", "--lab", lab.name, "--cni", "kube-router", prefix=prefix, status=None)
    assert refused.status != 0
    assert "this machine lacks bird (apt-get install bird2), for cni kube-router" in refused.err
    assert not lab.directory.exists()
    lines = run("doctor", prefix=prefix, status=None).out.splitlines()
    (line,) = [line for line in lines if "cni kube-router" in line]
    assert "bird2" in line


def test_ten_nodes_are_ready_within_seconds(lab: Lab) -> None:
    """A full mesh of 45 sessions takes no longer than that of three nodes."""
    began = time.monotonic()
    lab.run("up", "-f", "-", "--nodes", "10", stdin=manifest("ipv4", "kube-router"))
    took_s = time.monotonic() - began
    assert has_converged(lab)
    assert len(birds(lab)) == 10
    assert took_s < patiently(10), took_s


def test_a_bird_that_cannot_run_is_reported(lab: Lab, tmp_path: Path) -> None:
    """`up` ends with the reason, and leaves the lab; `diff` lists the daemon on every node."""
    broken = tmp_path / "bird"
    broken.write_text("#!/bin/sh\necho cannot >&2\nexit 3\n")
    broken.chmod(0o755)
    replaced = f'mount --bind {broken} "$(command -v bird)" && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", replaced, "sh")
    words = ("up", "--lab", lab.name, "--cni", "kube-router", "--nodes", "1", *SHORTLY)
    ended = run(*words, prefix=prefix, status=1)
    assert "not ready: daemon bird of node/control-plane: ended (exit status 3)" in ended.err
    assert "+ daemon bird" in lab.run("diff", status=1).out
    shown = lab.run("exec", "node:control-plane", "--", "cat", "/var/log/bird.log").out
    assert shown.splitlines()[0] == "cannot"


def test_inspect_shows_bird_and_its_routes(lab: Lab) -> None:
    """`inspect` lists daemon, files and routes; a route of BIRD names the daemon.

    It is listed once, and not as a route of an unknown program, too.
    """
    lab.up(manifest("ipv4", "kube-router"))
    lines = lab.run("inspect", "node:worker").out.splitlines()
    assert any(line.startswith("  daemon bird: bird -f -c") for line in lines)
    assert any(line.startswith("  file /etc/bird/bird.conf mode 0644") for line in lines)
    assert [line for line in lines if line.endswith(" of daemon bird")] == [
        "  route 10.244.0.0/24 via 172.18.0.2 dev eth0 of daemon bird",
        "  route 10.244.2.0/24 via 172.18.0.4 dev eth0 of daemon bird",
    ]
    assert "  route 10.244.2.0/24 via 172.18.0.4 dev eth0" not in lines
    assert "made by other programs:" not in lines


def test_the_service_proxy_replaces_kube_proxy(lab: Lab) -> None:
    """It needs a kernel with IPVS, and says so before anything is made."""
    words = ("--cni", "kube-router,serviceProxy=true")
    beside = lab.run("up", *words, "--proxy", "nftables", status=2)
    assert "networking.cni.serviceProxy: kube-proxy implements Services, too" in beside.err
    planned = lab.run("plan", *words).out
    assert "ipvs -t 10.96.0.10:53 -s rr" in planned
    assert "kube-proxy-" not in planned
    if "generic netlink family IPVS not found" in run("doctor", status=None).out:
        refused = lab.run("up", *words, status=None)
        assert refused.status != 0
        assert "cni kube-router needs ipvs" in refused.err
    assert not lab.directory.exists()


def test_a_crashed_node_gets_its_bird_and_routes_back(lab: Lab) -> None:
    """Its namespaces are new; BIRD of the other nodes goes on."""
    lab.up(manifest("ipv4", "kube-router"))
    before = birds(lab)
    (pause,) = lab.pids(f"{lab.name}/node/worker2")
    os.kill(pause, signal.SIGKILL)
    wait_for(lambda: pause not in lab.pids(f"{lab.name}/node/worker2"), "the end of the node")
    wait_for(lambda: len(birds(lab)) == 3 and birds(lab) != before, "a new BIRD")
    wait_for(lambda: established(lab) == 6 and has_converged(lab), "its routes")
    assert len(set(before) & set(birds(lab))) == 2
    wait_for(lambda: lab.problems == [], "the pods of the node")


def test_another_mode_ends_bird_and_removes_its_files_and_routes(lab: Lab) -> None:
    """And back again: BIRD is started anew."""
    lab.up(manifest("ipv4", "kube-router"))
    lab.run("up", "--cni", "bridge")
    wait_for(lambda: birds(lab) == [], "the end of BIRD")
    wait_for(lambda: bird_routes(lab, "worker") == {}, "the end of its routes")
    config = lab.run("exec", "node:worker", "--", "cat", "/etc/bird/bird.conf", status=None)
    assert "Mesh_" not in config.out
    wait_for(lambda: lab.problems == [], "the pods of the other mode")
    lab.run("up", "--cni", "kube-router")
    assert has_converged(lab)
    wait_for(lambda: lab.problems == [], "the pods of kube-router")
