"""Killing at any moment: which calls of a lab's processes are their last is drawn by chance, or
with `--thorough` it is each in turn.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from kubenetlab.lab import rundir
from tests.labs.changing import Changing
from tests.labs.conftest import some_of
from tests.labs.faulty import ROOT, Plan, command, run_faulty
from tests.labs.lab import Lab, descendants, title_of, wait_for
from tests.labs.streaming import streaming
from tests.labs.test_life import MANIFEST, generations, kernel_of

PER_SECOND, CONNECTIONS, KILLS = 50, 400, 8
CALLS = {"last_call": (140, 8), "dying_call": (300, 4), "stopped_at": (300, 4)}
"""As in test_faults."""
EARLY = (1, 4, 6, 11)
"""Calls of a lab whose init has just begun, and may not have said who it is."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, (most, few) in CALLS.items():
        some_of(metafunc, name, range(1, most + 1), few)


def test_whoever_makes_a_call_in_a_change_dies_of_it(changing: Changing, last_call: int) -> None:
    """An agent: the next one finds out how far it came, and the change is made; what ran stays as
    it was.
    """
    changing.plan.set(last_call, kills=True)
    changing.change()


def test_whoever_makes_a_call_in_an_up_dies_of_it(lab: Lab, plan: Plan, dying_call: int) -> None:
    """Nothing is left of the lab, or it is there as if nothing had happened."""
    plan.set(dying_call, kills=True)
    said = run_faulty(plan, "up", "--lab", lab.name)
    told = f"{plan.refused}\n{said.out}{said.err}"
    assert "bug" not in told
    wait_for(lambda: is_gone(lab) or is_whole(lab), "an end of either kind")
    if said.status == 1:
        assert not lab.remains, told
    lab.run("down")
    assert not lab.remains, told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_up_that_is_stopped_at_any_moment(
    lab: Lab, plan: Plan, number: signal.Signals, stopped_at: int
) -> None:
    """Ctrl-C leaves nothing; after a kill the processes are gone, and the next command takes the
    rest away. Once it is built, it stays.
    """
    stop(lab, plan, number, stopped_at)


@pytest.mark.parametrize("early", EARLY)
def test_an_up_that_is_stopped_at_once(lab: Lab, plan: Plan, early: int) -> None:
    """The same, while the lab has hardly begun: whoever takes it away again has to wait for it
    first.
    """
    stop(lab, plan, signal.SIGINT, early)


def stop(lab: Lab, plan: Plan, number: signal.Signals, stopped_at: int) -> None:
    """Stops an `up` when so many calls have been made."""
    plan.set(0)
    line = command(plan, "up", "--lab", lab.name)
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as up:
        wait_for(lambda: up.poll() is not None or plan.calls >= stopped_at, "the moment")
        up.send_signal(number)
        said = up.communicate()[0]
    assert "Traceback" not in said
    wait_for(lambda: is_gone(lab) or is_whole(lab), "an end of either kind")
    if number == signal.SIGINT and up.returncode != 0 and is_gone(lab):
        assert up.returncode == 130, said
        assert not lab.remains
    lab.run("down")
    assert not lab.remains


def is_gone(lab: Lab) -> bool:
    """No process of it lives; files may be there."""
    return not rundir.is_alive(lab.name) and all(entry.startswith("/") for entry in lab.remains)


def is_whole(lab: Lab) -> bool:
    return all(lab.run(command, status=None).status == 0 for command in ("ping", "diff"))


def test_a_killed_pod_is_gone_whole(lab: Lab) -> None:
    """Nobody who was connected to it, or it to them, keeps its namespace: its link leaves the node,
    for every kind of pod.
    """
    lab.up(MANIFEST)
    for name, namespace in (("client", "default"), ("web", "default"), ("coredns", "kube-system")):
        pod = lab.pod(name, namespace)
        (victim,) = lab.pids(f"{lab.name}/{pod['sandbox']}")
        os.kill(victim, signal.SIGKILL)
        wait_for(
            partial(has_lost, lab, lab.place("nodes", pod["node"]), pod["host_ifname"]),
            f"the end of {name}",
            within_s=5,
        )


ROUNDS_OF_KILLING = 4


def test_all_pause_processes_die_at_once(lab: Lab) -> None:
    """Also while the agent makes the sandboxes of those that died before anew, and others wait for
    the processor: the lab is whole again.
    """
    lab.up(MANIFEST)
    with busy():
        for _ in range(ROUNDS_OF_KILLING):
            for _ in range(2):
                for pid in pauses_of(lab):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not lab.faults, "the lab to be whole")
    titles = [title_of(pid) for pid in pauses_of(lab)]
    assert sorted(set(titles)) == sorted(titles)


@contextmanager
def busy() -> Iterator[None]:
    """Have other processes keep every processor busy."""
    hogs = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"])
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def pauses_of(lab: Lab, sandbox: str = "") -> list[int]:
    """The living pause processes of a lab, or of one of its sandboxes."""
    return lab.pids(f"{lab.name}/{sandbox}")


@pytest.mark.parametrize("place", ["pod", "node"])
def test_what_dies_while_there_is_no_agent(lab: Lab, place: str) -> None:
    """Init is stopped, so that no agent comes: the next one sees what is missing, and makes it
    anew, a pod with another address.
    """
    lab.up(MANIFEST)
    init, pod = lab.seen["init_pid"], lab.pod("web")
    sandbox = pod["sandbox"] if place == "pod" else f"node/{pod['node']}"
    titles = (f"kubenetlab {lab.name} agent", f"{lab.name}/{sandbox}")
    agent, victim = (
        next(pid for pid in lab.pids(title) if title_of(pid) == title) for title in titles
    )
    os.kill(init, signal.SIGSTOP)
    for pid in (agent, victim):
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: not title_of(pid), "its death")  # type: ignore[misc]
    os.kill(init, signal.SIGCONT)
    wait_for(lambda: not lab.faults, "the lab to be whole")
    assert victim not in lab.pids()
    assert (lab.pod(pod["name"])["addresses"] != pod["addresses"]) == (place == "pod")


def has_lost(lab: Lab, node: Any, link: str) -> bool:
    return f" {link}@" not in lab.inside(node, "ip", "link")


def test_connections_through_a_service_while_agents_die(lab: Lab) -> None:
    """Fifty a second, none of which fails, while one agent after the other is killed; nothing is
    written or renumbered.
    """
    lab.up(MANIFEST)
    before, written, init = kernel_of(lab), generations(lab), lab.seen["init_pid"]
    client, (address,) = lab.pod("client"), lab.service("web")["cluster_ips"]
    moments = set(random.Random(4).sample(range(CONNECTIONS), KILLS))
    with streaming(client, address, 80, PER_SECOND) as answers:
        for number in range(CONNECTIONS):
            answer = answers.readline().strip()
            assert answer.startswith("web-"), f"connection {number}: {answer}"
            if number in moments:
                for pid in descendants(init):
                    if title_of(pid) == f"kubenetlab {lab.name} agent":
                        os.kill(pid, signal.SIGKILL)
    assert kernel_of(lab) == before
    assert generations(lab) == written
    assert not lab.faults
