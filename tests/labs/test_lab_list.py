"""list: an overview of many labs, that no lab can stall."""

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
from tests.conftest import OURS
from tests.labs import users
from tests.labs.lab import COMMAND, Lab, descendants, run, wait_for
from tests.labs.users import NOBODY
from tests.patience import patiently

CLIENT = ONE_NODE + pod("client")


def listed(lab: Lab) -> dict[str, Any]:
    (found,) = [entry for entry in run("list", "-o", "json").json if entry["name"] == lab.name]
    return dict(found)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that is there and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_each_lab_has_a_line(labs: Callable[[], Lab]) -> None:
    """Owner, age, pods, faults, processes and memory of both."""
    one, other = labs(), labs()
    begun = time.monotonic()
    one.up(CLIENT + deployment("web", 2))
    other.up(CLIENT)
    one.run("break", "kube-proxy", "--node", "control-plane", "--how", "stopped")
    found = listed(one)
    assert (found["owner"], found["state"], found["nodes"]) == ("root", "up", 1)
    assert 0 <= found["age_s"] <= time.monotonic() - begun + 1
    seen = one.seen
    assert (found["pods"], found["services"]) == (len(seen["pods"]), len(seen["services"]))
    assert found["faults"] == [fault["summary"] for fault in seen["faults"]]
    assert len(found["faults"]) == 1
    assert found["init_pid"] == seen["init_pid"]
    assert (
        abs(found["processes"] - 1 - len(descendants(found["init_pid"]))) <= 2
    )  # probes come and go
    assert 10 << 20 < found["memory_bytes"] < 1 << 30
    assert listed(other)["faults"] == []
    rows = {line.split()[0]: line for line in run("list").out.splitlines()}
    assert re.split(r"\s{2,}", rows["LAB"])[:6] == ["LAB", "OWNER", "STATE", "AGE", "NODES", "PODS"]
    assert re.search(r"root +up +\d+\w* +1 +\d/\d ready +\d +1 +\d+ +\d+ MiB$", rows[one.name])
    assert str(found["init_pid"]) in run("list", "-o", "wide").out


def test_a_lab_that_does_not_answer_is_listed_and_stalls_nothing(labs: Callable[[], Lab]) -> None:
    """What the kernel knows of it is shown; the other labs are complete, within the deadline."""
    one, other = labs(), labs()
    one.up(CLIENT)
    other.up(CLIENT)
    with stopped(one.seen["agent_pid"]):
        begun = time.monotonic()
        found = {entry["name"]: entry for entry in run("list", "-o", "json").json}
        took_s = time.monotonic() - begun
        page = run("list")
    assert took_s < DEADLINE_S + patiently(1)
    silent, complete = found[one.name], found[other.name]
    assert (silent["state"], silent["pods"], silent["ready"], silent["faults"]) == (
        "no answer",
        None,
        None,
        None,
    )
    assert silent["processes"] > 1
    assert silent["memory_bytes"] > 0
    assert (complete["state"], complete["ready"]) == ("up", complete["pods"])
    assert re.search(rf"{one.name} +root +no answer +\d+\w+ +\? +\? +\? +\? ", page.out)
    assert re.search(rf"no answer: the agent of .*{one.name}.* does not answer", page.err)
    assert listed(one)["state"] == "up"


def test_init_that_is_stopped_stalls_nothing(lab: Lab) -> None:
    """Its socket takes connections, and that is all."""
    lab.up(CLIENT)
    with stopped(lab.seen["init_pid"]), stopped(lab.seen["agent_pid"]):
        assert listed(lab)["state"] == "no answer"


def test_changes_are_followed(labs: Callable[[], Lab]) -> None:
    """A line when pods come, when faults come, and when the lab goes; JSON has a document a line."""
    lab = labs()
    lab.up(CLIENT)
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(
        [*COMMAND, "list", "-w", "-o", "json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        stream = process.stdout
        os.set_blocking(stream.fileno(), False)

        def own() -> list[dict[str, Any]]:
            lines.extend(json.loads(line) for line in stream)
            return [line for line in lines if line["name"] == lab.name]

        try:
            wait_for(own, "the lab")
            pods = own()[-1]["pods"]
            lab.apply(deployment("web", 2))
            wait_for(
                lambda: (own()[-1]["pods"], own()[-1]["ready"]) == (pods + 2, pods + 2), "the pods"
            )
            lab.down()
            wait_for(lambda: own()[-1]["state"] == "down", "its end")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(patiently(20))


def test_root_sees_the_labs_of_others() -> None:
    """With their owners and what the kernel knows; a user sees its own alone, and all of it."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(
            "no Python that an ordinary user can run has the package's dependencies; apt-get install python3"
        )
    name, environment = (
        f"{OURS}theirs",
        {"XDG_RUNTIME_DIR": ""},
    )  # so that its run directory is below /tmp
    with users.user(NOBODY) as user:
        try:
            user.run("up", "--lab", name, "-f", "-", given=CLIENT, environment=environment)
            own = user.run("list", "-o", "json", environment=environment).json
            assert [(lab["name"], lab["owner"], lab["state"], lab["ready"]) for lab in own] == [
                (name, "nobody", "up", own[0]["pods"])
            ]
            (seen,) = [entry for entry in run("list", "-o", "json").json if entry["name"] == name]
            assert (seen["owner"], seen["state"], seen["pods"]) == ("nobody", "private", None)
            for lab in (own[0], seen):
                assert lab["processes"] > 1
                assert lab["memory_bytes"] > 1 << 20
        finally:
            user.run("down", "--lab", name, environment=environment)
