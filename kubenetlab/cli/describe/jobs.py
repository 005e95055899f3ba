"""describe of Jobs: specification, progress and pods.

Source: k8s.io/kubectl pkg/describe/describe.go JobDescriber (1.33).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.describe.cells import job_duration
from kubenetlab.cli.describe.fields import print_conditions, print_field, print_heading
from kubenetlab.cli.describe.workloads import describe_pods, describe_template

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


def describe_job(client: Client, document: JsonMapping) -> None:
    """Print the part between a Job's metadata and its events."""
    spec, status = document["spec"], document.get("status", {})
    is_queue = "completions" not in spec and "parallelism" in spec
    print_field("Parallelism", spec.get("parallelism", 1))
    print_field("Completions", "<unset>" if is_queue else spec.get("completions", 1))
    print_field("Completion Mode", spec.get("completionMode", "NonIndexed"))
    print_field("Suspend", str(spec.get("suspend", False)).lower())
    print_field("Backoff Limit", spec.get("backoffLimit", 6))
    if "activeDeadlineSeconds" in spec:
        print_field("Active Deadline", f"{spec['activeDeadlineSeconds']}s")
    for name, field in (("Start Time", "startTime"), ("Completed At", "completionTime")):
        if status.get(field):
            print_field(name, status[field])
    if duration := job_duration(document):
        print_field("Duration", duration)
    active = f"{status.get('active', 0)} Active ({status.get('ready', 0)} Ready)"
    print_field(
        "Pods Statuses",
        f"{active} / {status.get('succeeded', 0)} Succeeded / {status.get('failed', 0)} Failed",
    )
    if spec.get("completionMode") == "Indexed":
        print_field("Completed Indexes", status.get("completedIndexes") or "<none>")
    print_heading("Pod Template")
    describe_template(spec["template"])
    if status.get("conditions"):
        print_conditions(document)
    describe_pods(client, document)
