"""Daemons that init supervises: they are restarted, stopped, and end with their sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.messages.daemons import (
    DaemonReloaded,
    DaemonStatus,
    ListDaemons,
    StartDaemon,
    StopDaemon,
)
from kubenetlab.lab.processes import daemons as module
from kubenetlab.lab.processes.daemons import Daemons

NODE, SANDBOX = "node/a", ProcessId(10, 1)
IGNORES_SIGTERM = "from signal import *; signal(SIGTERM, SIG_IGN); print(flush=True); pause()"


class Machine:
    """Init without a lab: real processes, in the place of daemons."""

    def __init__(self, directory: Path) -> None:
        self.command = ["sleep", "60"]
        self.commands: list[tuple[str, ...]] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.is_sandbox_gone = False
        self.events: list[DaemonStatus] = []
        self.directory = directory
        self.daemons = Daemons(self, self, self)  # type: ignore[arg-type]
        self.daemons.on_change = self.events.append  # type: ignore[assignment]

    def spawn_in_pod(self, *arguments: Any, has_times: bool) -> int:
        if self.is_sandbox_gone:
            raise ProcessLookupError("the sandbox is gone")
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process.pid

    def drain(self, pid: int) -> None:
        """Do nothing: there is no log."""

    def daemon_role(self, request: StartDaemon) -> Any:
        self.commands.append(request.argv)
        return None

    def ask(self, request: Any) -> Any:
        return dict(self.daemons.handlers)[type(request)](request, 0)

    def start(self, *argv: str, revision: str = "1") -> None:
        tree = str(self.directory / "node_a")
        self.ask(StartDaemon(NODE, SANDBOX, "x", argv, revision, tree, "", "", ("-R",)))

    @property
    def statuses(self) -> list[DaemonStatus]:
        return list(self.ask(ListDaemons()).daemons)

    def reap(self, process: subprocess.Popen[str]) -> None:
        """Wait for the exit of a process, and report it."""
        status = os.waitpid(process.pid, 0)[1]
        process.returncode = os.waitstatus_to_exitcode(status)
        self.daemons.report_exit(process.pid, status)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    created = Machine(tmp_path)
    yield created
    created.close()


def test_a_daemon_that_ends_is_started_again(machine: Machine) -> None:
    """At once after the first exit, then after growing pauses; clients are told of each."""
    machine.start("x")
    for failures in (1, 2):
        machine.processes[-1].kill()
        machine.reap(machine.processes[-1])
        (status,) = machine.statuses
        assert (status.pid, status.failures) == (0, failures)
        assert status.failure == "ended (signal 9)"
        (due,) = machine.daemons.due
        assert (due - time.monotonic() > 0.05) == (failures == 2)
        if failures == 1:
            machine.daemons.start_due()
            assert machine.statuses[0].pid == machine.processes[-1].pid
    assert len(machine.processes) == 2
    assert [argv[1:] for argv in machine.commands[-2:]] == [(), ("-R",)]
    assert [bool(event.pid) for event in machine.events] == [True, False, True, False]


def test_a_stopped_daemon_is_not_started_again(machine: Machine) -> None:
    """It gets SIGTERM, so that it can clean up."""
    machine.start("x")
    machine.ask(StopDaemon(NODE, "x"))
    assert machine.statuses == []
    assert machine.daemons.has_process(machine.processes[0].pid)
    machine.reap(machine.processes[0])
    assert machine.processes[0].returncode == -signal.SIGTERM
    assert list(machine.daemons.due) == []
    machine.ask(StopDaemon(NODE, "x"))  # again: success


def test_a_daemon_that_ignores_sigterm_is_killed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor starts when it has ended, because both need the same ports."""
    monkeypatch.setattr(module, "KILL_AFTER_S", 0.0)
    machine.command = [sys.executable, "-c", IGNORES_SIGTERM]
    machine.start("x")
    stubborn = machine.processes[0]
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    machine.command = ["sleep", "60"]
    machine.start("x", "-g", revision="2")
    assert len(machine.processes) == 1
    machine.daemons.start_due()
    machine.reap(stubborn)
    assert stubborn.returncode == -signal.SIGKILL
    machine.daemons.start_due()
    (status,) = machine.statuses
    assert (status.argv, status.revision) == (("x", "-g"), "2")
    assert status.pid == machine.processes[1].pid


def test_a_reload_is_recorded(machine: Machine) -> None:
    """A new agent learns which revision of its files a daemon has read."""
    machine.command = [
        sys.executable,
        "-c",
        "import signal; print(flush=True); signal.sigwait([12])",
    ]
    machine.start("x")
    process = machine.processes[0]
    assert process.stdout is not None
    process.stdout.readline()
    machine.ask(DaemonReloaded(NODE, "x", "2"))
    assert machine.statuses[0].revision == "2"
    machine.ask(DaemonReloaded(NODE, "x", "3", signal.SIGUSR2))
    machine.reap(process)
    assert process.returncode in (0, -signal.SIGUSR2)
    with pytest.raises(ProcessLookupError):
        machine.ask(DaemonReloaded(NODE, "another", "2"))


def test_a_daemon_ends_with_its_sandbox(machine: Machine) -> None:
    """It is not started again when its namespaces are gone."""
    machine.start("x")
    machine.is_sandbox_gone = True
    machine.processes[0].kill()
    machine.reap(machine.processes[0])
    machine.daemons.start_due()
    assert machine.statuses == []
    assert list(machine.daemons.due) == []
