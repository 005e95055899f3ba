"""Processes that init has forked into pods, and their exits."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.processes.pod_processes import PodProcess, PodProcesses

POD, SANDBOX = "pod/default/a/1", ProcessId(10, 1)


def process(run: str, pid: int, *, beside: int = 0) -> PodProcess:
    """Return the process of a container, or one that joins it if `beside` is not 0."""
    return PodProcess(
        run,
        pid,
        "command",
        SANDBOX,
        {"netns": POD, "container": run, "attempt": 2, "argv": ["true"], "beside": beside},
    )


def test_an_exit_is_kept_until_it_is_acknowledged() -> None:
    """The next agent gets the exit with the time at which it happened."""
    processes = PodProcesses()
    processes.add(process("a", 11))
    event = processes.record_exit(11, 256, 5.0)
    assert event is not None
    assert (event["run"], event["attempt"], event["status"], event["at"]) == ("a", 2, 256, 5.0)
    assert processes.listing() == {"processes": [], "exits": [event]}
    processes.acknowledge(["a", "another"])
    assert processes.listing() == {"processes": [], "exits": []}


def test_exits_of_probes_and_of_other_children_are_not_kept() -> None:
    """A client that misses the exit of a probe's command runs the command again."""
    processes = PodProcesses()
    processes.add(process("a", 11, beside=10))
    event = processes.record_exit(11, 0, 5.0)
    assert event is not None
    assert event["is_probe"]
    assert processes.record_exit(12, 0, 5.0) is None
    assert processes.listing()["exits"] == []


def test_a_run_that_has_exited_is_not_signalled() -> None:
    """Its pid may be in use by another process."""
    processes = PodProcesses()
    processes.add(process("a", 11))
    processes.record_exit(11, 0, 5.0)
    with subprocess.Popen(["sleep", "60"]) as child:
        processes.add(process("b", child.pid))
        assert not processes.signal("a", signal.SIGKILL)
        assert processes.signal("b", signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == -signal.SIGKILL
        child.returncode = -signal.SIGKILL


def test_a_container_has_one_process_of_its_own() -> None:
    """The command of a probe is not the container's own process."""
    processes = PodProcesses()
    processes.add(process("a", 11, beside=10))
    with pytest.raises(ProcessLookupError):
        processes.of_container(POD, "a")
    processes.add(process("a", 12))
    assert processes.of_container(POD, "a").pid == 12
