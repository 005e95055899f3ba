"""Progress of a lab until it has settled: how many pods are ready, and why the others are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes.ipam import network
from kubenetlab.observe.settled import job_verdicts, verdicts

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


async def progress_until_settled(agent: Agent, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """Yield a line of JSON whenever the progress of the lab changes.

    The last line has `settled` or `timeout` set, and contains the diagnostics.
    """
    deadline = time.monotonic() + timeout_s
    last: JsonObject | None = None
    with agent.watchers.subscribe() as changed:
        while True:
            changed.clear()
            line = {**_progress(agent), "timeout": time.monotonic() >= deadline}
            is_last = line["settled"] or line["timeout"]
            if line != last:
                extra = {"diagnostics": diagnostics_of(agent.cluster)} if is_last else {}
                yield msgspec.json.encode({**line, **extra}) + b"\n"
                last = line
            if is_last:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await changed.wait()


def _progress(agent: Agent) -> JsonObject:
    """Return the state of the pods, of the Jobs, of daemons, and of the agent's work."""
    pods, jobs = verdicts(agent.cluster), job_verdicts(agent.cluster)
    daemons = list(agent.provided_routes.unready())
    return {
        "total": len(pods),
        "ready": sum(pod.state in ("ready", "completed") for pod in pods),
        "waiting": [pod.pod for pod in pods if pod.state == "waiting"],
        "stuck": [{"pod": pod.pod, "reason": pod.reason} for pod in pods if pod.state == "stuck"],
        "unready": [pod.pod for pod in pods if pod.state == "unready"],
        "jobs": [
            {"job": job.job, "state": job.state, "reason": job.reason}
            for job in jobs
            if job.state != "complete"
        ],
        "daemons": [
            {
                "daemon": daemon.daemon,
                "state": "failed" if daemon.is_failed else "waiting",
                "reason": daemon.reason,
            }
            for daemon in daemons
        ],
        "has_network": network(agent.cluster).has_network,
        "failures": agent.failures,
        "idle": agent.is_idle,
        "settled": agent.is_idle
        and all(pod.is_settled for pod in pods)
        and all(job.state != "waiting" for job in jobs)
        and all(daemon.is_failed for daemon in daemons)
        and not agent.failures,
    }


def diagnostics_of(cluster: Cluster) -> list[JsonObject]:
    """Return the diagnostics of a store as plain data."""
    # Imported here because the first lines of progress do not need it.
    from kubenetlab.lab.apiserver.diagnostics import diagnostics

    return diagnostics(cluster)


def duplicates_of(cluster: Cluster) -> list[str]:
    """Return the messages about addresses that two pods, or a pod and a node, have."""
    from kubenetlab.diagnostics import DUPLICATE_ADDRESS

    return [
        item["message"] for item in diagnostics_of(cluster) if item["code"] == DUPLICATE_ADDRESS
    ]
