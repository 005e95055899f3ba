"""The order of a reconcile pass: controllers, store, plan, difference, kernel, probes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kubenetlab.api.store import Cluster
from kubenetlab.errors import StoreError
from kubenetlab.hoststate.diff import Changes
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.lab.agent.reconcile import FIRST_RESULTS_S, reconcile

RUN = ProgramRun("pod/default/web/1234", "main", 0, "netexec", {}, ())
EMPTY = HostState({RUN.netns: contents_of([])})
WITH_RUN = HostState({RUN.netns: contents_of([RUN])})


class RecordingAgent:
    """An agent that records the steps of a pass in place of taking them."""

    def __init__(self, desired: HostState, observed: HostState) -> None:
        self.steps: list[str] = []
        self.applied: list[Changes] = []
        self.result_timeouts_s: list[float] = []
        self.save_error: Exception | None = None
        self.accepts_probes = True
        self.turns = SimpleNamespace(yield_to_clients=self._give_turn)
        self.desired_state = SimpleNamespace(
            update=lambda _: self._planned(desired), probes=dict, attachments=dict
        )
        self.observed_state = SimpleNamespace(state=observed)
        self.builder = SimpleNamespace(nodes={})
        self.sandboxes = SimpleNamespace(pauses={})
        self.plugins = SimpleNamespace(detach_first=self._detach_first, attach=self._attach)
        self.probes = SimpleNamespace(
            replace=self._replace_probes, wait_for_first_results=self._wait_for_results
        )

    def run_controllers(self) -> Cluster:
        self.steps.append("controllers")
        return Cluster()

    def save_readable(self) -> None:
        self.steps.append("save")
        if self.save_error is not None:
            raise self.save_error

    def drop_resolved_failures(self, changes: Changes) -> None:
        self.steps.append("drop failures")

    async def apply(self, changes: Changes) -> None:
        self.steps.append("apply")
        self.applied.append(changes)

    def schedule_retries(self, *, are_probes_accepted: bool) -> None:
        self.steps.append("done" if are_probes_accepted else "retry probes")

    def record_replaced_sandboxes(self) -> None:
        self.steps.append("replaced")

    def record_detached_pods(self) -> None:
        self.steps.append("detach")

    def _planned(self, desired: HostState) -> HostState:
        self.steps.append("plan")
        return desired

    def _detach_first(self, changes: Changes, pauses: object) -> Changes:
        self.steps.append("detach first")
        return changes

    def _attach(self, plan: object, pauses: object) -> None:
        self.steps.append("attach")

    async def _give_turn(self) -> None:
        self.steps.append("turn")

    async def _replace_probes(self, desired: object, nodes: object) -> bool:
        self.steps.append("probes")
        return self.accepts_probes

    async def _wait_for_results(self, timeout_s: float) -> None:
        self.result_timeouts_s.append(timeout_s)


def run_pass(agent: RecordingAgent) -> None:
    """Run one reconcile pass."""
    asyncio.run(reconcile(cast(Any, agent)))


def test_a_change_is_on_disk_before_the_kernel_is_changed() -> None:
    """The pass takes its steps in order, and serves clients between the long ones."""
    agent = RecordingAgent(WITH_RUN, EMPTY)
    run_pass(agent)
    assert agent.steps == [
        "controllers",
        "save",
        "turn",
        "plan",
        "turn",
        "detach first",
        "drop failures",
        "apply",
        "replaced",
        "attach",
        "probes",
        "done",
        "detach",
    ]
    (changes,) = agent.applied
    assert [operation.object for operation in changes.operations()] == [RUN]
    assert agent.result_timeouts_s == [FIRST_RESULTS_S]


def test_nothing_is_applied_without_a_difference() -> None:
    """The kernel is left alone, and results of probes are not waited for."""
    agent = RecordingAgent(WITH_RUN, WITH_RUN)
    run_pass(agent)
    assert "apply" not in agent.steps
    assert agent.result_timeouts_s == [0]


def test_a_store_that_cannot_be_saved_stops_the_pass() -> None:
    """The kernel is not changed: a new agent would not know why it was."""
    agent = RecordingAgent(WITH_RUN, EMPTY)
    agent.save_error = StoreError("cannot be read back")
    with pytest.raises(StoreError):
        run_pass(agent)
    assert agent.steps == ["controllers", "save"]


def test_probes_that_are_not_accepted_are_retried() -> None:
    """A node agent may have been replaced while the probes were on their way."""
    agent = RecordingAgent(WITH_RUN, WITH_RUN)
    agent.accepts_probes = False
    run_pass(agent)
    assert "retry probes" in agent.steps
