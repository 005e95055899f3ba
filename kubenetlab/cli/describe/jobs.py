"""describe of Jobs: what is to be done, how far it is, and the pods that do it.

Source: k8s.io/kubectl pkg/describe/describe.go JobDescriber (1.33).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kubenetlab.cli.describe.cells import job_duration
from kubenetlab.cli.describe.lines import conditions, line
from kubenetlab.cli.describe.workloads import describe_pods, describe_template
from kubenetlab.cli.terminal.screen import say

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


def describe_job(client: Client, document: Mapping[str, Any]) -> None:
    """Print the part between a Job's metadata and its events."""
    spec, status = document["spec"], document.get("status", {})
    is_queue = "completions" not in spec and "parallelism" in spec
    line("Parallelism", spec.get("parallelism", 1))
    line("Completions", "<unset>" if is_queue else spec.get("completions", 1))
    line("Completion Mode", spec.get("completionMode", "NonIndexed"))
    line("Suspend", str(spec.get("suspend", False)).lower())
    line("Backoff Limit", spec.get("backoffLimit", 6))
    if "activeDeadlineSeconds" in spec:
        line("Active Deadline", f"{spec['activeDeadlineSeconds']}s")
    for name, field in (("Start Time", "startTime"), ("Completed At", "completionTime")):
        if status.get(field):
            line(name, status[field])
    if duration := job_duration(document):
        line("Duration", duration)
    active = f"{status.get('active', 0)} Active ({status.get('ready', 0)} Ready)"
    line(
        "Pods Statuses",
        f"{active} / {status.get('succeeded', 0)} Succeeded / {status.get('failed', 0)} Failed",
    )
    if spec.get("completionMode") == "Indexed":
        line("Completed Indexes", status.get("completedIndexes") or "<none>")
    say("Pod Template:")
    describe_template(spec["template"])
    if status.get("conditions"):
        conditions(document)
    describe_pods(client, document)
