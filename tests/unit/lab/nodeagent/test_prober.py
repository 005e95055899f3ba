"""Periodic probes: when a failure is reported as final."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.lab.messages.node_agent import ProbeResult
from kubenetlab.lab.nodeagent.prober import PeriodicProbe

FINAL_AFTER_S = 0.3
DEADLINE_S = 10.0
SPEC = ProbeSpec(
    "pod/default/a/1",
    "main",
    0,
    "readiness",
    "node/worker",
    "10.0.0.1",
    "tcp",
    80,
    period_s=0.01,
    failure_threshold=1,
    final_after_s=FINAL_AFTER_S,
)


def reports_of(monkeypatch: pytest.MonkeyPatch, ready_for_s: float) -> list[tuple[bool, bool]]:
    """Return (success, final) of each report of a probe that succeeds for a time, then fails.

    The last report is the first final one.
    """

    async def observe() -> list[tuple[bool, bool]]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        reports: list[tuple[bool, bool]] = []
        is_final = asyncio.Event()

        async def attempt(*_: object) -> str | None:
            return None if loop.time() - start < ready_for_s else "connection refused"

        def record(result: ProbeResult) -> None:
            reports.append((result.outcome.ok, result.outcome.is_settled))
            if not result.outcome.ok and result.outcome.is_settled:
                is_final.set()

        monkeypatch.setattr(PeriodicProbe, "_attempt", attempt)
        unused: Any = None
        probe = PeriodicProbe(SPEC, unused, unused, unused, record, unused)
        async with asyncio.timeout(DEADLINE_S):
            await is_final.wait()
        probe.stop()
        return reports

    return asyncio.run(observe())


@pytest.mark.parametrize("ready_for_s", [0, 2 * FINAL_AFTER_S], ids=["new", "ready before"])
def test_a_failure_is_final_only_if_it_lasts(
    monkeypatch: pytest.MonkeyPatch, ready_for_s: float
) -> None:
    """A pod that was ready for long has as much time to recover as a new one has to start.

    `up` gives up on a final failure at once.
    """
    reports = reports_of(monkeypatch, ready_for_s)
    ready = [(True, True)] if ready_for_s else []
    assert reports == [*ready, (False, False), (False, True)]
