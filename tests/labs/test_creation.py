"""Creation of labs, interrupted by signals, commands, killed agents and limits.

Two labs can be created at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kubenetlab.kernel.syscalls import has_default_scheduling
from tests.clusters import replaced
from tests.labs.lab import COMMAND, Lab, descendants, run, title_of, wait_for
from tests.labs.web_lab import MANIFEST, web_answers
from tests.patience import patiently

LARGE = replaced(MANIFEST, ("replicas: 4", "replicas: 150"))
"""A lab whose creation takes long enough to be interrupted."""


def start_up(lab: Lab, manifest: str = LARGE) -> subprocess.Popen[str]:
    """Start an `up` in the background."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--lab", lab.name, "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(manifest)
    process.stdin.close()
    process.stdin = None
    return process


def pause_processes(lab: Lab) -> list[int]:
    """Return the pause processes of a lab, whatever their parent is."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and title_of(int(entry.name)).startswith(f"{lab.name}/")
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_up_leaves_nothing(lab: Lab, number: signal.Signals) -> None:
    """After each signal the incomplete lab is removed, and can be created again."""
    process = start_up(lab)
    wait_for(lambda: len(pause_processes(lab)) > 20, "the creation to start")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    wait_for(lambda: not pause_processes(lab), "the removal of the incomplete lab", within_s=5)
    if number != signal.SIGKILL:
        assert f"interrupted: lab {lab.name} was removed" in err
        assert not lab.directory.exists()
    assert "Traceback" not in out + err
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_an_interrupt_while_waiting_leaves_the_lab_up(lab: Lab) -> None:
    """Once the lab is built, Ctrl-C only ends the waiting, and names the unready pods."""
    slow = replaced(
        MANIFEST,
        (
            "args: [netexec]}]",
            "args: [netexec], readinessProbe: {tcpSocket: {port: 1}, failureThreshold: 1000}}]",
        ),
    )
    process = start_up(lab, slow)
    assert process.stdout is not None
    assert "built" in process.stdout.readline()
    wait_for(
        lambda: (
            lab.run("get", "pods", status=None).status == 0
            and all(pod["ready"] for pod in lab.inspected["pods"] if pod["name"] != "client")
        ),
        "all pods but one",
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        f"stopped waiting; lab {lab.name} stays up; pods not ready yet: default/client\n"
        "next: kubenetlab get pods -A -w" in err
    )
    assert web_answers(lab)


def test_two_concurrent_ups_create_one_lab(lab: Lab) -> None:
    """One creates it; the other is rejected or applies its manifest.

    There are never two labs with one name.
    """
    first, second = start_up(lab), start_up(lab)
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    statuses = sorted((first.returncode, second.returncode))
    assert statuses in ([0, 0], [0, 1]), outputs
    assert all("Traceback" not in out + err and "bug" not in out + err for out, err in outputs)
    assert (
        len([pid for pid in pause_processes(lab) if title_of(pid) == f"{lab.name}/node/worker"])
        == 1
    )


STOPPED_S = 4
"""Longer than a program of an app worker may be silent, in seconds."""


def processes(title: str) -> list[int]:
    """Return the processes with a title, also of a lab that does not answer yet."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and title_of(int(entry.name)) == title
    ]


def test_up_waits_for_a_process_without_processor_time(lab: Lab) -> None:
    """On a busy machine, CoreDNS may wait for seconds; it is not given up."""
    up = start_up(lab, MANIFEST)
    (stopped, *_) = wait_for(lambda: processes(f"kubenetlab {lab.name} coredns"), "CoreDNS")
    os.kill(stopped, signal.SIGSTOP)
    with suppress(subprocess.TimeoutExpired):
        up.wait(timeout=STOPPED_S)
    os.kill(stopped, signal.SIGCONT)
    out, err = up.communicate(timeout=patiently(60))
    assert up.returncode == 0, out + err


def test_down_can_interrupt_the_creation_of_a_lab(lab: Lab) -> None:
    """In the end nothing is left, and all commands end without a bug report.

    Two `down` commands run at the same time.
    """
    up = start_up(lab)
    wait_for(lambda: lab.directory.exists(), "the creation to start")
    downs = [
        subprocess.Popen(
            [*COMMAND, "down", "--lab", lab.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in (*downs, up)]
    assert [down.returncode for down in downs] == [0, 0], outputs
    assert up.returncode in (0, 1)
    assert not any("bug" in text for text in outputs)
    wait_for(lambda: not pause_processes(lab), "the end of the lab", within_s=5)
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_up_survives_a_kill_of_the_agent_while_it_waits(lab: Lab) -> None:
    """It continues with the next agent, and the verdict is the same."""
    slow = replaced(
        MANIFEST,
        (
            "args: [netexec]}]",
            "args: [netexec], readinessProbe: {tcpSocket: {port: 1}, failureThreshold: 1}}]",
        ),
    )
    waiting = start_up(lab, slow)
    wait_for(
        lambda: lab.run("get", "pods", status=None).status == 0 and lab.pod("web")["ready"],
        "the lab",
    )
    os.kill(lab.inspected["agent_pid"], signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "Readiness probe failed: dial tcp 10.244.1.2:1: connect: connection refused" in err, out
    assert "9 of 10 pods ready" in out


def test_two_labs_can_have_the_same_addresses(labs: Callable[[], Lab]) -> None:
    """Each lab reaches its own pods; commands must name the lab."""
    first, second = labs(), labs()
    first.up(MANIFEST)
    second.up(replaced(MANIFEST, ("name: web", "name: wob"), ("app: web", "app: wob")))
    assert first.pod("client")["addresses"] == second.pod("client")["addresses"]
    (address,) = first.pod("client")["addresses"]
    for lab, name in ((first, "web"), (second, "wob")):
        answers = lab.ask(
            lab.pod("client"), *[("TCP", lab.service(name)["cluster_ips"][0], 80)] * 10
        )
        assert all(
            answer.server.startswith(f"{name}-") and answer.client[0] == address
            for answer in answers
        )
    errors = run("get", "pods", status=1).err
    assert "several labs are up" in errors
    assert first.name in errors
    assert {lab["name"] for lab in run("list", "-o", "json").json} >= {first.name, second.name}
    first.down()
    assert second.ask(second.pod("client"), ("TCP", second.service("wob")["cluster_ips"][0], 80))[
        0
    ].server


def test_up_reports_a_limit_that_it_cannot_see_and_leaves_nothing(lab: Lab) -> None:
    """An outer user namespace has the limit.

    The report has the kernel's reason once, and a remedy; the exit status is 1.
    """
    limit = "echo 8 > /proc/sys/user/max_net_namespaces"
    inner = f"unshare --user --map-root-user {' '.join(COMMAND)} up --lab {lab.name} -f -"
    child = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", f"{limit} && exec {inner}"],
        input=MANIFEST,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "Operation not permitted" in child.stderr and "unshare" in child.stderr:
        pytest.skip("no user namespace can be created here to set a limit")
    assert child.returncode == 1, child.stdout + child.stderr
    assert child.stderr.count("cannot add sandbox") == 2
    assert "kernel: unshare: No space left on device (ENOSPC)" in child.stderr
    assert "→ a limit of namespaces is reached" in child.stderr
    assert child.stderr.splitlines()[-1].endswith("more with the same reason")
    assert "Traceback" not in child.stderr
    wait_for(lambda: not pause_processes(lab), "the end of what was made", within_s=5)


def test_only_the_thread_that_creates_links_has_a_higher_priority(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its children, pause processes and programs in pods do not inherit the priority.

    It is not raised with one processor, or if the caller has a nice value.
    """
    is_expected = len(os.sched_getaffinity(0)) > 1 and has_default_scheduling()
    assert has_priority_thread(lab) == is_expected
    lab.down()
    with monkeypatch.context() as patched:
        patched.setattr("tests.labs.lab.COMMAND", ["nice", "-n", "1", *COMMAND])
        assert not has_priority_thread(lab)


def has_priority_thread(lab: Lab) -> bool:
    """Create a lab and return whether a thread of its agent has a higher priority.

    No other process may have one.
    """
    lab.up(MANIFEST)
    tasks = [
        (pid, int(entry.name))
        for pid in descendants(lab.inspected["init_pid"])
        for entry in Path(f"/proc/{pid}/task").iterdir()
    ]
    priority_threads = [
        (pid, task)
        for pid, task in tasks
        if os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER
    ]
    assert len(tasks) > 20
    assert {pid for pid, _ in priority_threads} <= {lab.inspected["agent_pid"]}
    assert len(priority_threads) <= 1
    return bool(priority_threads)
