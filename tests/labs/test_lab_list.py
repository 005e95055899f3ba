"""`list`: an overview of many labs; no lab can stall it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kubenetlab.lab.overview import DEADLINE_S
from tests.clusters import ONE_NODE, deployment, pod
from tests.conftest import LAB_PREFIX
from tests.labs import users
from tests.labs.lab import COMMAND, Lab, descendants, run, wait_for
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY
from tests.patience import patiently

CLIENT = ONE_NODE + pod("client")


def listed(lab: Lab) -> dict[str, Any]:
    (entry,) = [
        candidate for candidate in run("list", "-o", "json").json if candidate["name"] == lab.name
    ]
    return dict(entry)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process stopped during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_each_lab_has_a_line(labs: Callable[[], Lab]) -> None:
    """The line has owner, age, pods, faults, processes and memory."""
    lab, other_lab = labs(), labs()
    started_at = time.monotonic()
    lab.up(CLIENT + deployment("web", 2))
    other_lab.up(CLIENT)
    lab.run("break", "kube-proxy", "--node", "control-plane", "--how", "stopped")
    entry = listed(lab)
    assert (entry["owner"], entry["state"], entry["nodes"]) == ("root", "up", 1)
    assert 0 <= entry["age_s"] <= time.monotonic() - started_at + 1
    inspected = lab.inspected
    assert (entry["pods"], entry["services"]) == (
        len(inspected["pods"]),
        len(inspected["services"]),
    )
    assert entry["faults"] == [fault["summary"] for fault in inspected["faults"]]
    assert len(entry["faults"]) == 1
    assert entry["init_pid"] == inspected["init_pid"]
    assert (
        # Processes of probes may start and end meanwhile.
        abs(entry["processes"] - 1 - len(descendants(entry["init_pid"]))) <= 2
    )
    assert 10 << 20 < entry["memory_bytes"] < 1 << 30
    assert listed(other_lab)["faults"] == []
    rows = {line.split()[0]: line for line in run("list").out.splitlines()}
    assert re.split(r"\s{2,}", rows["LAB"])[:6] == ["LAB", "OWNER", "STATE", "AGE", "NODES", "PODS"]
    assert re.search(r"root +up +\d+\w* +1 +\d/\d ready +\d +1 +\d+ +\d+ MiB$", rows[lab.name])
    assert str(entry["init_pid"]) in run("list", "-o", "wide").out


def test_a_lab_that_does_not_answer_does_not_stall_the_list(labs: Callable[[], Lab]) -> None:
    """Its line has what the kernel knows; the other lines are complete, within the deadline."""
    silent_lab, other_lab = labs(), labs()
    silent_lab.up(CLIENT)
    other_lab.up(CLIENT)
    with stopped(silent_lab.inspected["agent_pid"]):
        started_at = time.monotonic()
        entries = {entry["name"]: entry for entry in run("list", "-o", "json").json}
        duration_s = time.monotonic() - started_at
        result = run("list")
    assert duration_s < DEADLINE_S + patiently(1)
    silent, complete = entries[silent_lab.name], entries[other_lab.name]
    assert (silent["state"], silent["pods"], silent["ready"], silent["faults"]) == (
        "no answer",
        None,
        None,
        None,
    )
    assert silent["processes"] > 1
    assert silent["memory_bytes"] > 0
    assert (complete["state"], complete["ready"]) == ("up", complete["pods"])
    assert re.search(rf"{silent_lab.name} +root +no answer +\d+\w+ +\? +\? +\? +\? ", result.out)
    assert re.search(rf"no answer: the agent of .*{silent_lab.name}.* does not answer", result.err)
    assert listed(silent_lab)["state"] == "up"


def test_a_stopped_init_does_not_stall_the_list(lab: Lab) -> None:
    """Its socket accepts connections, but nothing answers."""
    lab.up(CLIENT)
    with stopped(lab.inspected["init_pid"]), stopped(lab.inspected["agent_pid"]):
        assert listed(lab)["state"] == "no answer"


def test_list_follows_changes(labs: Callable[[], Lab]) -> None:
    """A new line appears for new pods and when the lab is removed.

    JSON has one document per line.
    """
    lab = labs()
    lab.up(CLIENT)
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(
        [*COMMAND, "list", "-w", "-o", "json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        stream = process.stdout
        os.set_blocking(stream.fileno(), False)

        def lines_of_lab() -> list[dict[str, Any]]:
            lines.extend(json.loads(line) for line in stream)
            return [line for line in lines if line["name"] == lab.name]

        try:
            wait_for(lines_of_lab, "the lab")
            pods = lines_of_lab()[-1]["pods"]
            lab.apply(deployment("web", 2))
            wait_for(
                lambda: (
                    (lines_of_lab()[-1]["pods"], lines_of_lab()[-1]["ready"])
                    == (pods + 2, pods + 2)
                ),
                "the pods",
            )
            lab.down()
            wait_for(lambda: lines_of_lab()[-1]["state"] == "down", "the end of the lab")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(patiently(20))


def test_root_sees_the_labs_of_other_users() -> None:
    """Root sees owner and processes; a user sees only the own labs, completely."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    name = f"{LAB_PREFIX}theirs"
    environment = {"XDG_RUNTIME_DIR": ""}  # the run directory is below /tmp
    with users.user(NOBODY) as user:
        try:
            user.run("up", "--lab", name, "-f", "-", stdin=CLIENT, environment=environment)
            users_entries = user.run("list", "-o", "json", environment=environment).json
            assert [
                (lab["name"], lab["owner"], lab["state"], lab["ready"]) for lab in users_entries
            ] == [(name, "nobody", "up", users_entries[0]["pods"])]
            (roots_entry,) = [
                entry for entry in run("list", "-o", "json").json if entry["name"] == name
            ]
            assert (roots_entry["owner"], roots_entry["state"], roots_entry["pods"]) == (
                "nobody",
                "private",
                None,
            )
            for lab in (users_entries[0], roots_entry):
                assert lab["processes"] > 1
                assert lab["memory_bytes"] > 1 << 20
        finally:
            user.run("down", "--lab", name, environment=environment)
