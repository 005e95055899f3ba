"""Limits of real commands: memory and processes, by control groups, and by limits of single
processes where there are none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenetlab.kernel.processes.limiters import has_groups, limiters
from kubenetlab.lab.runtime.container_limits import MAX_PIDS
from tests.conftest import OURS
from tests.labs import users
from tests.labs.lab import Lab, cgroups_of, run, wait_for
from tests.labs.real_commands import ONE_NODE, pod, said, status
from tests.labs.users import NOBODY, UsersLab

needs_groups = pytest.mark.skipif(
    not has_groups(limiters()),
    reason="no cgroups for memory and processes can be made here: as root, or systemd-run -p Delegate=yes",
)

GREEDY = """\
  - name: main
    image: x
    command: [python3, -c, "held = bytearray(512 << 20); print('got it', flush=True); import signal; signal.pause()"]
    resources: {limits: {memory: 64Mi}}
"""
MODEST = "  - {name: main, image: x, command: [sleep, '1000']}\n"
THREADS = """\
  - name: main
    image: x
    command:
    - python3
    - -c
    - |
      import signal, threading
      threading.stack_size(32768)
      stop, count = threading.Event(), 1
      try:
          while count < 20000:
              threading.Thread(target=stop.wait, daemon=True).start()
              count += 1
      except RuntimeError:
          pass
      print(count, flush=True)
      signal.pause()
"""


def begin(lab: Lab, manifest: str) -> str:
    """Return the notes of `up`; a pod that dies early may have been ready for a moment."""
    return lab.run("up", "-f", "-", given=ONE_NODE + manifest, status=None).err


def count_of_threads(lab: Lab) -> int:
    """Return the number that the command THREADS prints when it gets no more."""
    (line,) = wait_for(lambda: said(lab, "bomb"), "the last thread")
    return int(line)


@needs_groups
def test_a_command_beyond_its_memory_limit_is_killed(lab: Lab) -> None:
    """OOMKilled with 137, as in a cluster, and started again; its neighbour lives.

    Once it is kept down, no group of it is left.
    """
    told = begin(lab, pod("greedy", GREEDY) + pod("modest", MODEST))
    assert "limits.memory of Pod default/greedy is enforced by a cgroup (version " in " ".join(
        told.split()
    )
    ended = wait_for(lambda: status(lab, "greedy").get("lastState", {}).get("terminated"), "an end")
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    assert ended["message"] == "the container used more than its memory limit of 64Mi"
    assert f"OOMKilled: {ended['message']}" in lab.run("describe", "pod", "greedy").out
    wait_for(lambda: status(lab, "greedy")["restartCount"] >= 1, "another start")
    assert "got it" not in said(lab, "greedy")
    assert status(lab, "modest")["restartCount"] == 0
    assert status(lab, "modest")["ready"]
    wait_for(
        lambda: (
            not [path for path in cgroups_of(lab.name) if "/main-" in path and not _processes(path)]
        ),
        "an end of empty groups",
    )


def _processes(group: str) -> str:
    try:
        return Path(group, "cgroup.procs").read_text()
    except OSError:
        return "gone"


@needs_groups
def test_a_job_that_may_not_restart_stays_killed(lab: Lab) -> None:
    """restartPolicy Never: the pod has failed, with the reason; a memory limit that suffices does
    not matter.
    """
    enough = GREEDY.replace("512 << 20", "8 << 20").replace("signal.pause()", "")
    never = "  restartPolicy: Never\n"
    begin(lab, pod("greedy", GREEDY, never) + pod("enough", enough, never))
    wait_for(lambda: lab.get("pod", "greedy")["status"]["phase"] == "Failed", "an end")
    assert status(lab, "greedy")["state"]["terminated"]["reason"] == "OOMKilled"
    wait_for(lambda: lab.get("pod", "enough")["status"]["phase"] == "Succeeded", "an end")
    assert said(lab, "enough") == ["got it"]


@needs_groups
def test_processes_of_a_container_are_limited(lab: Lab) -> None:
    """Threads count as well.

    The rest of the machine still gets processes, and the lab ends as ever.
    """
    lab.up(ONE_NODE + pod("bomb", THREADS) + pod("modest", MODEST))
    assert count_of_threads(lab) == MAX_PIDS
    assert lab.run("exec", "modest", "--", "echo", "alive").out == "alive\n"
    assert not lab.faults


@needs_groups
def test_nothing_is_left_of_groups(lab: Lab) -> None:
    """After a deletion, `down`, and a kill of init with a daemon in a group; a lab without real
    commands has none.
    """
    daemon = (
        "  - {name: main, image: x, command: [sh, -c, 'setsid sleep 1000 & exec sleep 1000']}\n"
    )
    lab.up(ONE_NODE)
    assert cgroups_of(lab.name) == []
    lab.apply(pod("web", daemon))
    assert [path for path in cgroups_of(lab.name) if "/main-" in path]
    lab.run("delete", "pod", "web")
    lab.apply(pod("another", MODEST))
    wait_for(
        lambda: (
            not [path for path in cgroups_of(lab.name) if "/main-" in path and not _processes(path)]
        ),
        "the groups' end",
    )
    os.kill(lab.seen["init_pid"], signal.SIGKILL)
    wait_for(lambda: run("down", "--lab", lab.name, status=None).status == 0, "down")
    assert lab.remains == []


PROBED = """\
  - name: main
    image: x
    command: [sh, -c, "until [ -s /tmp/asked ]; do sleep 0.1; done; LOOK; cat /tmp/asked; echo end; exec sleep 1000"]
    readinessProbe: {exec: {command: [sh, -c, "LOOK > /tmp/new; mv /tmp/new /tmp/asked"]}, periodSeconds: 1, timeoutSeconds: 20}
    resources: {limits: {memory: 64Mi}}
"""


def ended(lines: list[str]) -> list[str]:
    """Return the lines when the last of PROBED is among them."""
    return lines if lines[-1:] == ["end"] else []


@needs_groups
def test_a_probe_has_the_limits_of_its_container(lab: Lab) -> None:
    """It runs in the container's cgroups: neither its memory nor a fork bomb in it is the
    machine's.
    """
    lab.up(ONE_NODE + pod("web", PROBED.replace("LOOK", "cat /proc/self/cgroup")))
    *lines, _ = wait_for(lambda: ended(said(lab, "web")), "a probe")
    own, probes = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert any("/main-" in line for line in own)
    assert own == probes


@pytest.fixture
def users_lab() -> Iterator[UsersLab]:
    """A lab of a user who can make no cgroups; gone after the test."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(
            "no Python that an ordinary user can run has the package's dependencies; apt-get install python3"
        )
    with users.user(NOBODY) as user:
        made = UsersLab(f"{OURS}l", user)
        try:
            yield made
        finally:
            made.down()


def test_limits_of_a_user_without_cgroups(users_lab: UsersLab) -> None:
    """A process is refused more memory, and ends by itself; more processes it does not get either.

    `up` and doctor say by what.
    """
    told = begin(users_lab, pod("greedy", GREEDY) + pod("bomb", THREADS) + pod("modest", MODEST))
    assert (
        "limits.memory of Pod default/greedy is enforced by RLIMIT_DATA of each process"
        in " ".join(told.split())
    )
    ended = wait_for(
        lambda: status(users_lab, "greedy").get("lastState", {}).get("terminated"), "an end"
    )
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (1, "Error", "MemoryError")
    assert MAX_PIDS - 10 <= count_of_threads(users_lab) <= MAX_PIDS + 100
    assert users_lab.run("exec", "modest", "--", "echo", "alive").out == "alive\n"
    assert "memory is limited by RLIMIT_DATA of each process" in " ".join(
        users_lab.user.run("doctor", status=None).out.split()
    )


def test_probes_of_a_user_without_cgroups(users_lab: UsersLab) -> None:
    """The limit of its container, as one of each process, in kilobytes."""
    users_lab.up(ONE_NODE + pod("web", PROBED.replace("LOOK", "ulimit -d")))
    assert wait_for(lambda: ended(said(users_lab, "web")), "a probe") == ["65536", "65536", "end"]


def test_a_limit_that_is_no_quantity_is_refused(lab: Lab) -> None:
    """With file and line, before anything is made."""
    told = lab.up(ONE_NODE + pod("greedy", GREEDY.replace("64Mi", "64MB")), status=2).err
    assert "<stdin>:" in told
    assert "spec.containers[0].resources.limits.memory: expected a quantity" in told
    assert not lab.remains
