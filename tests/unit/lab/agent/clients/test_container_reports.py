"""Reports of containers: late and outdated ones are dropped, the rest is passed on in batches."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from kubenetlab.api.lab import ContainerReport
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.container_reports import ContainerReports
from kubenetlab.lab.messages.app_worker import RunReport

POD = "pod/default/web/1"
SANDBOX, SUCCESSOR = ProcessId(1, 1), ProcessId(1, 2)


def report(
    state: Literal["running", "exited"],
    attempt: int = 0,
    *,
    run: str = "",
    sandbox: ProcessId = SANDBOX,
) -> RunReport:
    """Return a report of a container's state."""
    return RunReport(POD, sandbox, "main", ContainerReport(attempt, state), run)


def passed_on(sent: list[RunReport]) -> tuple[list[list[RunReport]], ContainerReports]:
    """Return the batches that are passed on when reports are added in one loop iteration."""
    batches: list[list[RunReport]] = []

    async def scenario() -> ContainerReports:
        reports = ContainerReports(lambda batch: batches.append(list(batch)), {POD: SANDBOX}.get)
        for sent_report in sent:
            reports.add(sent_report)
        await asyncio.sleep(0)
        return reports

    reports = asyncio.run(scenario())
    return batches, reports


def test_reports_of_one_iteration_are_one_batch() -> None:
    """They change the store together."""
    sent = [report("running"), report("exited", run="a")]
    batches, reports = passed_on(sent)
    assert batches == [sent]
    assert reports.running == {}
    assert (reports.take_delivered(), reports.take_delivered()) == (["a"], [])


@pytest.mark.parametrize("late", [0, 1])
def test_a_start_is_dropped_after_the_end_of_the_same_or_a_later_run(late: int) -> None:
    """The answer to a start may arrive after the event of the exit."""
    end = report("exited", attempt=1)
    batches, reports = passed_on([end, report("running", attempt=late)])
    assert batches == [[end]]
    assert reports.running == {}


def test_the_end_of_an_earlier_run_leaves_a_later_one_running() -> None:
    """It is reported, but the container counts as running."""
    sent = [report("running", attempt=1), report("exited", attempt=0)]
    batches, reports = passed_on(sent)
    assert batches == [sent]
    assert reports.running == {(POD, "main"): 1}


def test_a_report_of_a_former_sandbox_of_the_same_name_is_dropped() -> None:
    """The sandbox is identified by its pause process: by pid and start time."""
    batches, reports = passed_on([report("running", sandbox=SUCCESSOR)])
    assert batches == []
    assert reports.running == {}
