"""Identification of processes by pid and start time."""

from __future__ import annotations

import os
import subprocess

import pytest

from kubenetlab.kernel.processes.identity import (
    ProcessId,
    has_exited,
    open_process,
    reap,
    start_time,
)


def test_a_reused_pid_is_another_process() -> None:
    """The start time differs."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = ProcessId.of(child.pid)
        os.close(open_process(process))
        with pytest.raises(ProcessLookupError):
            open_process(process._replace(start=process.start - 1))
        child.kill()


def test_a_reaped_process_cannot_be_opened() -> None:
    """A zombie can be opened: its pid is not reused before it is reaped."""
    child = subprocess.Popen(["true"])
    process = ProcessId.of(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    pidfd = open_process(process)
    assert has_exited(pidfd)
    assert reap(pidfd)
    assert reap(pidfd)
    os.close(pidfd)
    child.returncode = 0
    with pytest.raises(ProcessLookupError):
        open_process(process)
    with pytest.raises(ProcessLookupError):
        start_time(child.pid)


def test_the_start_time_is_parsed_after_any_process_name() -> None:
    """A process name may contain parentheses and spaces."""
    with subprocess.Popen(
        ["bash", "-c", "echo ') 1 (2' > /proc/$$/comm; echo; sleep 60"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert start_time(child.pid) >= start_time(os.getpid())
        child.kill()
