"""Making a lab, and what may come between: signals, another `up`, a `down`, an agent's death, a
limit; and two labs at once.
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
from tests.labs.test_life import MANIFEST, web_answers
from tests.patience import patiently

LARGE = replaced(MANIFEST, ("replicas: 4", "replicas: 150"))
"""Large enough to be met in the middle."""


def start_up(lab: Lab, manifest: str = LARGE) -> subprocess.Popen[str]:
    """An `up` that goes on by itself."""
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


def sandboxes(lab: Lab) -> list[int]:
    """Pause processes of a lab, whoever their parent is."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and title_of(int(entry.name)).startswith(f"{lab.name}/")
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_up_that_is_stopped_in_the_middle_leaves_nothing(
    lab: Lab, number: signal.Signals
) -> None:
    """Ctrl-C, a polite end, a rude one: the half-made lab is gone, and can be made again."""
    process = start_up(lab)
    wait_for(lambda: len(sandboxes(lab)) > 20, "the making to begin")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    wait_for(lambda: not sandboxes(lab), "the end of the half-made lab", within_s=5)
    if number != signal.SIGKILL:
        assert f"interrupted: lab {lab.name} was removed" in err
        assert not lab.directory.exists()
    assert "Traceback" not in out + err
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_an_interrupt_while_waiting_leaves_the_lab_up(lab: Lab) -> None:
    """Once it is built, Ctrl-C only ends the waiting, and says what was waited for."""
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
        lambda: lab.run("get", "pods", status=None).status == 0 and lab.pod("web")["ready"],
        "the lab",
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        f"stopped waiting; lab {lab.name} stays up; pods not ready yet: default/client\nnext: kubenetlab get pods -A -w"
        in err
    )
    assert web_answers(lab)


def test_an_up_of_a_lab_that_is_being_made(lab: Lab) -> None:
    """Two at once: one makes it, the other one is told or applies to it; never two labs of one
    name.
    """
    first, second = start_up(lab), start_up(lab)
    said = [process.communicate(timeout=60) for process in (first, second)]
    statuses = sorted((first.returncode, second.returncode))
    assert statuses in ([0, 0], [0, 1]), said
    assert all("Traceback" not in out + err and "bug" not in out + err for out, err in said)
    assert len([pid for pid in sandboxes(lab) if title_of(pid) == f"{lab.name}/node/worker"]) == 1


STOPPED_S = 4
"""Longer than a program of an app worker may be silent."""


def processes(title: str) -> list[int]:
    """The processes with a title, also of a lab that does not answer yet."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and title_of(int(entry.name)) == title
    ]


def test_an_up_waits_for_a_process_that_gets_no_processor(lab: Lab) -> None:
    """On a busy machine CoreDNS may have to wait for some seconds: it is on the way, and not given
    up.
    """
    making = start_up(lab, MANIFEST)
    (stopped, *_) = wait_for(lambda: processes(f"kubenetlab {lab.name} coredns"), "CoreDNS")
    os.kill(stopped, signal.SIGSTOP)
    with suppress(subprocess.TimeoutExpired):
        making.wait(timeout=STOPPED_S)
    os.kill(stopped, signal.SIGCONT)
    out, err = making.communicate(timeout=patiently(60))
    assert making.returncode == 0, out + err


def test_a_down_while_a_lab_is_being_made(lab: Lab) -> None:
    """Whoever comes first: in the end nothing is there, and both say so in plain words; two at once
    do no harm.
    """
    making = start_up(lab)
    wait_for(lambda: lab.directory.exists(), "the making to begin")
    downs = [
        subprocess.Popen(
            [*COMMAND, "down", "--lab", lab.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in (*downs, making)]
    assert [down.returncode for down in downs] == [0, 0], said
    assert making.returncode in (0, 1)
    assert not any("bug" in text for text in said)
    wait_for(lambda: not sandboxes(lab), "the end of the lab", within_s=5)
    lab.up(MANIFEST)
    assert web_answers(lab)


def test_an_up_outlives_the_agent_it_waits_for(lab: Lab) -> None:
    """Its successor is asked, and the verdict is the same."""
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
    os.kill(lab.seen["agent_pid"], signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "Readiness probe failed: dial tcp 10.244.1.2:1: connect: connection refused" in err
    assert "9 of 10 pods ready" in out


def test_two_labs_with_the_same_addresses_at_once(labs: Callable[[], Lab]) -> None:
    """Side by side, and each reaches its own; commands must say which."""
    one, two = labs(), labs()
    one.up(MANIFEST)
    two.up(replaced(MANIFEST, ("name: web", "name: wob"), ("app: web", "app: wob")))
    assert one.pod("client")["addresses"] == two.pod("client")["addresses"]
    (address,) = one.pod("client")["addresses"]
    for lab, name in ((one, "web"), (two, "wob")):
        answers = lab.ask(
            lab.pod("client"), *[("TCP", lab.service(name)["cluster_ips"][0], 80)] * 10
        )
        assert all(
            answer.who.startswith(f"{name}-") and answer.seen[0] == address for answer in answers
        )
    said = run("get", "pods", status=1).err
    assert "several labs are up" in said
    assert one.name in said
    assert {lab["name"] for lab in run("list", "-o", "json").json} >= {one.name, two.name}
    one.down()
    assert two.ask(two.pod("client"), ("TCP", two.service("wob")["cluster_ips"][0], 80))[0].who


def test_a_machine_that_refuses_is_told_of_and_nothing_is_left(lab: Lab) -> None:
    """A limit that cannot be seen before, of a user namespace around ours, say: the kernel's reason
    once, what to do, exit status 1, no lab.
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
        pytest.skip("no user namespaces here, in which to set a limit")
    assert child.returncode == 1, child.stdout + child.stderr
    assert child.stderr.count("cannot add sandbox") == 2
    assert "kernel: unshare: No space left on device (ENOSPC)" in child.stderr
    assert "→ a limit of namespaces is reached" in child.stderr
    assert child.stderr.splitlines()[-1].endswith("more with the same reason")
    assert "Traceback" not in child.stderr
    wait_for(lambda: not sandboxes(lab), "the end of what was made", within_s=5)


def test_only_who_makes_links_goes_before_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread of the agent; neither what it starts, pause processes, nor anything that runs in
    the pods. With one processor, or when it is said that nothing is urgent, not even that.
    """
    may_go_before = len(os.sched_getaffinity(0)) > 1 and has_default_scheduling()
    assert goes_before(lab) == may_go_before
    lab.down()
    with monkeypatch.context() as patched:
        patched.setattr("tests.labs.lab.COMMAND", ["nice", "-n", "1", *COMMAND])
        assert not goes_before(lab)


def goes_before(lab: Lab) -> bool:
    """Whether a thread of the agent of a new lab does; nobody else may."""
    lab.up(MANIFEST)
    tasks = [
        (pid, int(entry.name))
        for pid in descendants(lab.seen["init_pid"])
        for entry in Path(f"/proc/{pid}/task").iterdir()
    ]
    others = [
        (pid, task)
        for pid, task in tasks
        if os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER
    ]
    assert len(tasks) > 20
    assert {pid for pid, _ in others} <= {lab.seen["agent_pid"]}
    assert len(others) <= 1
    return bool(others)
