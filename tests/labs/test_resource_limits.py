"""Memory and process limits of real commands, by cgroups or by limits of single processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenetlab.kernel.processes.limiters import has_groups, limiters
from kubenetlab.lab.runtime.container_limits import MAX_PIDS
from tests.conftest import LAB_PREFIX
from tests.labs import users
from tests.labs.lab import Lab, cgroups_of, run, wait_for
from tests.labs.real_commands import ONE_NODE, log_lines, pod, status
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY, UsersLab

needs_groups = pytest.mark.skipif(
    not has_groups(limiters()),
    reason="no cgroups for memory and processes can be created here: "
    "run as root, or with systemd-run -p Delegate=yes",
)

GREEDY = """\
  - name: main
    image: x
    command:
    - python3
    - -c
    - |
      allocated = bytearray(512 << 20)
      print('got it', flush=True)
      import signal
      signal.pause()
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


def start_lab(lab: Lab, manifest: str) -> str:
    """Run `up` with any exit status and return its notes.

    A pod that ends early may have been ready for a moment.
    """
    return lab.run("up", "-f", "-", stdin=ONE_NODE + manifest, status=None).err


def count_of_threads(lab: Lab) -> int:
    """Return the number of threads that the command THREADS could start."""
    (line,) = wait_for(lambda: log_lines(lab, "bomb"), "the last thread")
    return int(line)


@needs_groups
def test_a_command_beyond_its_memory_limit_is_oom_killed(lab: Lab) -> None:
    """It is OOMKilled with 137, as in a cluster, and restarted.

    Its neighbour keeps running. Between runs, no cgroup of the container is left.
    """
    notes = start_lab(lab, pod("greedy", GREEDY) + pod("modest", MODEST))
    assert "limits.memory of Pod default/greedy is enforced by a cgroup (version " in " ".join(
        notes.split()
    )
    terminated = wait_for(
        lambda: status(lab, "greedy").get("lastState", {}).get("terminated"), "an end"
    )
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")
    assert terminated["message"] == "the container used more than its memory limit of 64Mi"
    assert f"OOMKilled: {terminated['message']}" in lab.run("describe", "pod", "greedy").out
    wait_for(lambda: status(lab, "greedy")["restartCount"] >= 1, "a restart")
    assert "got it" not in log_lines(lab, "greedy")
    assert status(lab, "modest")["restartCount"] == 0
    assert status(lab, "modest")["ready"]
    wait_for(
        lambda: (
            not [path for path in cgroups_of(lab.name) if "/main-" in path and not _processes(path)]
        ),
        "the removal of empty cgroups",
    )


def _processes(group: str) -> str:
    try:
        return Path(group, "cgroup.procs").read_text()
    except OSError:
        return "gone"


@needs_groups
def test_an_oom_killed_pod_that_may_not_restart_fails(lab: Lab) -> None:
    """With restartPolicy Never, the pod's status has the reason.

    A sufficient limit has no effect.
    """
    enough = GREEDY.replace("512 << 20", "8 << 20").replace("signal.pause()", "")
    never = "  restartPolicy: Never\n"
    start_lab(lab, pod("greedy", GREEDY, never) + pod("enough", enough, never))
    wait_for(lambda: lab.get("pod", "greedy")["status"]["phase"] == "Failed", "an end")
    assert status(lab, "greedy")["state"]["terminated"]["reason"] == "OOMKilled"
    wait_for(lambda: lab.get("pod", "enough")["status"]["phase"] == "Succeeded", "an end")
    assert log_lines(lab, "enough") == ["got it"]


@needs_groups
def test_processes_of_a_container_are_limited(lab: Lab) -> None:
    """Threads count as well.

    Other programs of the lab can still start processes.
    """
    lab.up(ONE_NODE + pod("bomb", THREADS) + pod("modest", MODEST))
    assert count_of_threads(lab) == MAX_PIDS
    assert lab.run("exec", "modest", "--", "echo", "alive").out == "alive\n"
    assert not lab.problems


@needs_groups
def test_cgroups_are_removed(lab: Lab) -> None:
    """They are removed with their container, by `down`, and after a kill of init.

    A lab without real commands has none.
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
        "the removal of the cgroups",
    )
    os.kill(lab.inspected["init_pid"], signal.SIGKILL)
    wait_for(lambda: run("down", "--lab", lab.name, status=None).status == 0, "down")
    assert lab.leftovers == []


PROBED = """\
  - name: main
    image: x
    command:
    - sh
    - -c
    - >-
      until [ -s /tmp/probed ]; do sleep 0.1; done;
      INSPECT; cat /tmp/probed; echo end; exec sleep 1000
    readinessProbe:
      exec: {command: [sh, -c, "INSPECT > /tmp/new; mv /tmp/new /tmp/probed"]}
      periodSeconds: 1
      timeoutSeconds: 20
    resources: {limits: {memory: 64Mi}}
"""


def complete_output(lines: list[str]) -> list[str]:
    """Return the lines once the last line of PROBED is among them."""
    return lines if lines[-1:] == ["end"] else []


@needs_groups
def test_a_probe_has_the_limits_of_its_container(lab: Lab) -> None:
    """It runs in the container's cgroups, so its memory and processes are limited, too."""
    lab.up(ONE_NODE + pod("web", PROBED.replace("INSPECT", "cat /proc/self/cgroup")))
    *lines, _ = wait_for(lambda: complete_output(log_lines(lab, "web")), "a probe")
    of_container, of_probe = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert any("/main-" in line for line in of_container)
    assert of_container == of_probe


@pytest.fixture
def users_lab() -> Iterator[UsersLab]:
    """Yield a lab of a user without cgroups; remove it after the test."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    with users.user(NOBODY) as user:
        lab = UsersLab(f"{LAB_PREFIX}l", user)
        try:
            yield lab
        finally:
            lab.down()


def test_limits_without_cgroups_apply_to_each_process(users_lab: UsersLab) -> None:
    """Allocations and new processes beyond the limits fail.

    `up` and doctor name the mechanism.
    """
    notes = start_lab(
        users_lab, pod("greedy", GREEDY) + pod("bomb", THREADS) + pod("modest", MODEST)
    )
    assert (
        "limits.memory of Pod default/greedy is enforced by RLIMIT_DATA of each process"
        in " ".join(notes.split())
    )
    complete_output = wait_for(
        lambda: status(users_lab, "greedy").get("lastState", {}).get("terminated"), "an end"
    )
    assert (complete_output["exitCode"], complete_output["reason"], complete_output["message"]) == (
        1,
        "Error",
        "MemoryError",
    )
    assert MAX_PIDS - 10 <= count_of_threads(users_lab) <= MAX_PIDS + 100
    assert users_lab.run("exec", "modest", "--", "echo", "alive").out == "alive\n"
    assert "memory is limited by RLIMIT_DATA of each process" in " ".join(
        users_lab.user.run("doctor", status=None).out.split()
    )


def test_a_probe_without_cgroups_has_the_limit_of_its_container(users_lab: UsersLab) -> None:
    """It is a limit of each process, in kilobytes."""
    users_lab.up(ONE_NODE + pod("web", PROBED.replace("INSPECT", "ulimit -d")))
    assert wait_for(lambda: complete_output(log_lines(users_lab, "web")), "a probe") == [
        "65536",
        "65536",
        "end",
    ]


def test_an_invalid_limit_is_rejected(lab: Lab) -> None:
    """The message has file and line, and nothing is created."""
    errors = lab.up(ONE_NODE + pod("greedy", GREEDY.replace("64Mi", "64MB")), status=2).err
    assert "<stdin>:" in errors
    assert "spec.containers[0].resources.limits.memory: expected a quantity" in errors
    assert not lab.leftovers
