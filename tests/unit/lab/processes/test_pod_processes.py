"""Processes that init has forked into pods, and their exits."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.messages.init import PodProcess, ProcessExited, ProcessList
from kubenetlab.lab.processes.pod_processes import PodProcesses, TrackedProcess

POD, SANDBOX = "pod/default/a/1", ProcessId(10, 1)


def process(run: str, pid: int, *, is_probe: bool = False) -> TrackedProcess:
    """Return the process of a container, or the command of one of its probes."""
    return TrackedProcess(PodProcess(run, "command", POD, SANDBOX, run, 2, is_probe, pid))


def exit_of(processes: PodProcesses, pid: int) -> ProcessExited | None:
    """Record the exit of a process; return the event, or None if the process is not known."""
    exited = processes.take_exited(pid)
    if exited is None:
        return None
    event = ProcessExited(exited, 256, 5.0)
    processes.record_exit(event)
    return event


def test_an_exit_is_kept_until_it_is_acknowledged() -> None:
    """The next agent gets the exit with the time at which it happened."""
    processes = PodProcesses()
    processes.add(process("a", 11))
    event = exit_of(processes, 11)
    assert event is not None
    assert (event.process.run, event.process.attempt) == ("a", 2)
    assert processes.listing() == ProcessList((), (event,))
    processes.acknowledge(["a", "another"])
    assert processes.listing() == ProcessList((), ())


def test_exits_of_probes_and_of_other_children_are_not_kept() -> None:
    """A client that misses the exit of a probe's command runs the command again."""
    processes = PodProcesses()
    processes.add(process("a", 11, is_probe=True))
    event = exit_of(processes, 11)
    assert event is not None
    assert event.process.is_probe
    assert exit_of(processes, 12) is None
    assert processes.listing().exits == ()


def test_a_run_that_has_exited_is_not_signalled() -> None:
    """Its pid may be in use by another process."""
    processes = PodProcesses()
    processes.add(process("a", 11))
    exit_of(processes, 11)
    with subprocess.Popen(["sleep", "60"]) as child:
        processes.add(process("b", child.pid))
        assert not processes.signal("a", signal.SIGKILL)
        assert processes.signal("b", signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == -signal.SIGKILL
        child.returncode = -signal.SIGKILL


def test_a_container_has_one_process_of_its_own() -> None:
    """The command of a probe is not the container's own process."""
    processes = PodProcesses()
    processes.add(process("a", 11, is_probe=True))
    with pytest.raises(ProcessLookupError):
        processes.of_container(POD, "a")
    processes.add(process("a", 12))
    assert processes.of_container(POD, "a").process.pid == 12
