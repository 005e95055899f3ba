"""Processes of a lab are killed at any call to Linux.

A usual run uses a random sample of the calls with a fixed seed; `--thorough` uses all of them.
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
from tests.labs.changed_lab import ChangedLab
from tests.labs.conftest import parametrize_sample
from tests.labs.fault_injection import FaultPlan, command, run_with_faults
from tests.labs.lab import ROOT, Lab, descendants, title_of, wait_for
from tests.labs.streaming import streaming
from tests.labs.web_lab import MANIFEST, kernel_state, rule_generations

PER_SECOND, CONNECTIONS, KILLS = 50, 400, 8
CALLS = {"last_call": (140, 8), "killing_call": (300, 4), "stopped_at": (300, 4)}
"""Argument → (upper bound of the number of calls, size of the sample), as in test_failing_calls."""
EARLY = (1, 4, 6, 11)
"""Calls at which init has just started, and may not have reported its pid."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, (most, few) in CALLS.items():
        parametrize_sample(metafunc, name, range(1, most + 1), few)


def test_a_change_completes_although_its_process_is_killed(
    changed_lab: ChangedLab, last_call: int
) -> None:
    """The next agent finds the state of the change and completes it.

    Running pods stay as they are.
    """
    changed_lab.plan.set(last_call, kills=True)
    changed_lab.change_and_revert()


def test_up_completes_or_removes_the_lab_although_a_process_is_killed(
    lab: Lab, plan: FaultPlan, killing_call: int
) -> None:
    """The process that makes the sampled call is killed."""
    plan.set(killing_call, kills=True)
    result = run_with_faults(plan, "up", "--lab", lab.name)
    output = f"{plan.refused}\n{result.out}{result.err}"
    assert "bug" not in output
    wait_for(lambda: is_gone(lab) or is_whole(lab), "the lab to be complete or gone")
    if result.status == 1:
        assert not lab.leftovers, output
    lab.run("down")
    assert not lab.leftovers, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_up_can_be_stopped_at_any_call(
    lab: Lab, plan: FaultPlan, number: signal.Signals, stopped_at: int
) -> None:
    """Ctrl-C leaves nothing.

    After a kill, the processes end, and the next command removes the rest. A lab that is already
    built stays.
    """
    stop_up(lab, plan, number, stopped_at)


@pytest.mark.parametrize("early", EARLY)
def test_up_can_be_stopped_right_after_its_start(lab: Lab, plan: FaultPlan, early: int) -> None:
    """The process that removes the lab has to wait for its init first."""
    stop_up(lab, plan, signal.SIGINT, early)


def stop_up(lab: Lab, plan: FaultPlan, number: signal.Signals, stopped_at: int) -> None:
    """Stop an `up` after a number of calls."""
    plan.set(0)
    line = command(plan, "up", "--lab", lab.name)
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as up:
        wait_for(lambda: up.poll() is not None or plan.calls >= stopped_at, "the call")
        up.send_signal(number)
        output = up.communicate()[0]
    assert "Traceback" not in output
    wait_for(lambda: is_gone(lab) or is_whole(lab), "the lab to be complete or gone")
    if number == signal.SIGINT and up.returncode != 0 and is_gone(lab):
        assert up.returncode == 130, output
        assert not lab.leftovers
    lab.run("down")
    assert not lab.leftovers


def is_gone(lab: Lab) -> bool:
    """Return True if no process of the lab is alive; files may be left."""
    return not rundir.is_alive(lab.name) and all(entry.startswith("/") for entry in lab.leftovers)


def is_whole(lab: Lab) -> bool:
    return all(lab.run(command, status=None).status == 0 for command in ("ping", "diff"))


def test_a_killed_pod_leaves_no_link(lab: Lab) -> None:
    """No connected process keeps its namespace, for every kind of pod."""
    lab.up(MANIFEST)
    for name, namespace in (("client", "default"), ("web", "default"), ("coredns", "kube-system")):
        pod = lab.pod(name, namespace)
        (victim,) = lab.pids(f"{lab.name}/{pod['sandbox']}")
        os.kill(victim, signal.SIGKILL)
        wait_for(
            partial(has_no_link, lab, lab.place("nodes", pod["node"]), pod["host_ifname"]),
            f"the end of {name}",
            within_s=5,
        )


KILL_ROUNDS = 4


def test_a_lab_recovers_when_all_pause_processes_are_killed(lab: Lab) -> None:
    """They are killed again while the agent recreates the sandboxes, on a busy machine."""
    lab.up(MANIFEST)
    with busy_machine():
        for _ in range(KILL_ROUNDS):
            for _ in range(2):
                for pid in pause_processes(lab):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not lab.problems, "the lab to be whole")
    titles = [title_of(pid) for pid in pause_processes(lab)]
    assert sorted(set(titles)) == sorted(titles)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep all processors busy with other processes."""
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


def pause_processes(lab: Lab, sandbox: str = "") -> list[int]:
    """Return the pause processes of a lab, or of one of its sandboxes."""
    return lab.pids(f"{lab.name}/{sandbox}")


@pytest.mark.parametrize("place", ["pod", "node"])
def test_a_new_agent_recreates_what_was_killed_without_an_agent(lab: Lab, place: str) -> None:
    """A stopped init starts no agent meanwhile.

    A recreated pod has another address.
    """
    lab.up(MANIFEST)
    init, pod = lab.inspected["init_pid"], lab.pod("web")
    sandbox = pod["sandbox"] if place == "pod" else f"node/{pod['node']}"
    titles = (f"kubenetlab {lab.name} agent", f"{lab.name}/{sandbox}")
    agent, victim = (
        next(pid for pid in lab.pids(title) if title_of(pid) == title) for title in titles
    )
    os.kill(init, signal.SIGSTOP)
    for pid in (agent, victim):
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: not title_of(pid), "the end of the process")  # type: ignore[misc]
    os.kill(init, signal.SIGCONT)
    wait_for(lambda: not lab.problems, "the lab to be whole")
    assert victim not in lab.pids()
    assert (lab.pod(pod["name"])["addresses"] != pod["addresses"]) == (place == "pod")


def test_a_new_agent_answers_what_the_former_one_did(lab: Lab) -> None:
    """Its first answer, before its first pass, too: else `ping` would promise nothing listens.

    The processes of containers are the exception: they are taken over in that pass.
    """
    lab.up(MANIFEST)
    before = lab.inspected
    assert any(entry["listening"] for pod in before["pods"] for entry in pod["containers"])
    title = f"kubenetlab {lab.name} agent"
    agent = next(pid for pid in lab.pids(title) if title_of(pid) == title)
    os.kill(agent, signal.SIGKILL)
    after = lab.inspected
    assert after.pop("agent_pid") != before.pop("agent_pid")
    for pod in (*before["pods"], *after["pods"]):
        for entry in pod["containers"]:
            del entry["pid"]
    assert after == before
    os.kill(next(pid for pid in lab.pids(title) if title_of(pid) == title), signal.SIGKILL)
    assert lab.run("diff", "-o", "json").json["changes"] == []


def has_no_link(lab: Lab, node: Any, link: str) -> bool:
    return f" {link}@" not in lab.inside(node, "ip", "link")


def test_no_connection_fails_while_agents_are_killed(lab: Lab) -> None:
    """Fifty connections per second use a Service.

    Nothing is written or renumbered.
    """
    lab.up(MANIFEST)
    before, generation, init = kernel_state(lab), rule_generations(lab), lab.inspected["init_pid"]
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
    assert kernel_state(lab) == before
    assert rule_generations(lab) == generation
    assert not lab.problems
