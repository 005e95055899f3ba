"""New attempts of readiness probes whose failure was final, after a user has changed something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec import structs

from kubenetlab.api.lab import PodRuntimeStatus, ProbeReport
from kubenetlab.controllers.kubelet.kubelet import runtime_status_of
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.messages.node_agent import ProbeResult

if TYPE_CHECKING:
    from kubenetlab.api.store import Cluster
    from kubenetlab.lab.agent.agent import Agent


async def retry_failing(agent: Agent) -> None:
    """Restart the readiness probes that have failed for good, and take their results back.

    The next attempt is otherwise up to a period away. Until then, `up` would give up on a pod whose
    failure has just been repaired.
    """
    if not agent.cluster.index(PodRuntimeStatus, _has_failures):
        return
    specs = [spec for specs in agent.desired_state.probes().values() for spec in specs]
    results = list(_failed(agent.cluster, specs))
    if results:
        agent.apply_changes(status_reports.probe_reports(agent.cluster, results, 0))
        keys = {(result.netns, result.container, result.outcome.kind) for result in results}
        await agent.probes.take_back(keys, agent.builder.nodes)


def _has_failures(statuses: Iterable[PodRuntimeStatus]) -> bool:
    """Return True if a readiness probe of a pod has failed for good."""
    return any(
        report.kind == "readiness" and _is_final_failure(report)
        for status in statuses
        for report in status.probes.values()
    )


def _is_final_failure(report: ProbeReport) -> bool:
    return report.is_settled and not report.ok


def _failed(cluster: Cluster, specs: Iterable[ProbeSpec]) -> Iterator[ProbeResult]:
    """Yield the final failures of readiness probes as results that are not final."""
    for spec in specs:
        pod = status_reports.pod_of(cluster, spec.netns) if spec.kind == "readiness" else None
        status = runtime_status_of(cluster, pod) if pod is not None else None
        report = status.probes.get(f"{spec.container}/{spec.kind}") if status else None
        if report is not None and _is_final_failure(report):
            yield ProbeResult(spec.netns, spec.container, structs.replace(report, is_settled=False))
