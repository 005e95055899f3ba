"""Log files of containers that are processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubenetlab.lab import rundir
from kubenetlab.lab.agent.clients import log_files
from kubenetlab.lab.agent.clients.log_files import LogFiles
from kubenetlab.lab.messages.app_worker import RunSelection

POD = "pod/default/web/1"


@pytest.fixture
def logs(tmp_path: Path) -> LogFiles:
    """Return the log files of a lab without containers."""
    (tmp_path / rundir.container_log(POD, "main")).parent.mkdir(parents=True, exist_ok=True)
    return LogFiles(tmp_path)


def lines(logs: LogFiles, which: RunSelection, netns: str = POD) -> list[str] | None:
    """Return the lines of a run's log."""
    part = logs.read(netns, "main", which, 0, is_going_on=False)
    return None if part is None else part.lines


def run(logs: LogFiles, attempt: int, netns: str = POD) -> None:
    """Begin a run that prints its attempt."""
    logs.begin_run(netns, "main", attempt)
    logs.append(netns, "main", f"run {attempt}\n")


def test_a_new_run_has_a_log_of_its_own(logs: LogFiles) -> None:
    """The log of the run before it stays readable as the previous one, also by its attempt."""
    assert not logs.has_log(POD, "main")
    run(logs, 0)
    assert logs.has_log(POD, "main")
    assert (lines(logs, "latest"), lines(logs, "previous")) == (["run 0"], None)
    run(logs, 1)
    assert (lines(logs, "latest"), lines(logs, "previous")) == (["run 1"], ["run 0"])
    assert (lines(logs, 1), lines(logs, 0)) == (["run 1"], ["run 0"])


def test_a_repeated_attempt_continues_its_log(logs: LogFiles) -> None:
    """The agent repeats an attempt whose process could not be started."""
    run(logs, 1)
    run(logs, 1)
    assert (lines(logs, "latest"), lines(logs, "previous")) == (["run 1", "run 1"], None)


def test_logs_of_former_sandboxes_are_kept_up_to_a_limit(
    logs: LogFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest ones are deleted first; the log of an existing sandbox is kept."""
    monkeypatch.setattr(log_files, "ENDED_LOGS", 2)
    sandboxes = [f"pod/default/web/{number}" for number in range(4)]
    for netns in sandboxes:
        run(logs, 0, netns)
    for netns in sandboxes[1:]:
        logs.forget(netns)
    assert [logs.has_log(netns, "main") for netns in sandboxes] == [True, False, True, True]
