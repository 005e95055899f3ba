"""rollout: replace the pods of workloads, and wait until a rollout is complete."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Timeout, parse_duration_s
from kubenetlab.cli.input.short_options import Command, Group
from kubenetlab.cli.terminal.printing import echo, hint

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client

RETRY_INTERVAL_S: Final = 0.05
"""Time between two watches that the agent ends without an event, in seconds."""

_EDIT: Final = "kubenetlab get KIND/NAME -o yaml > FILE; {} spec.paused; kubenetlab apply -f FILE"
_ALTERNATIVES: Final = {
    "undo": "kubenetlab apply -f FILE, with the previous manifest: the lab keeps no revisions",
    "history": "kubenetlab get replicasets",
    "pause": _EDIT.format("set"),
    "resume": _EDIT.format("remove"),
}
"""Subcommand of kubectl rollout → equivalent command of kubenetlab."""


class _Group(Group):
    """Command group whose errors name the equivalents of kubectl's other subcommands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _ALTERNATIVES:
            from kubenetlab.errors import UsageError

            raise UsageError(
                f"there is no command rollout {args[0]}; use: {_ALTERNATIVES[args[0]]}"
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    help="Replace a workload's pods, or wait until its rollout is complete.",
)

Workloads = Annotated[
    list[str],
    typer.Argument(
        metavar="KIND NAME | KIND/NAME",
        help="Deployment, StatefulSet or DaemonSet.",
        show_default=False,
        autocompletion=candidates("rollout_workloads"),
    ),
]


@app.command(cls=Command)
def restart(resources: Workloads, namespace: Namespace = None, lab: Lab = None) -> None:
    """Replace all pods of a workload, following its update strategy.

    Example: kubenetlab rollout restart deployment web
    """
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.lab.client import select_lab
    from kubenetlab.lab.paths import object_path

    workloads = _workloads("rollout restart", resources)
    client = select_lab(lab)
    for kind, name in workloads:
        with with_suggestion(client, kind, namespace or "default", name):
            client.request("PUT", f"{object_path(kind, namespace or 'default', name)}/restart")
        echo(f"{kind.kind.lower()} {name} restarted")
    hint(
        f"kubenetlab rollout status {' '.join(resources)}{f' -n {namespace}' if namespace else ''}"
    )


@app.command(cls=Command)
def status(
    resources: Workloads, namespace: Namespace = None, timeout: Timeout = "60s", lab: Lab = None
) -> None:
    """Wait until all pods of a workload are ready and have the current template.

    Example: kubenetlab rollout status deployment web
    """
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import select_lab
    from kubenetlab.lab.paths import kind_path, object_path

    workloads = _workloads("rollout status", resources)
    client = select_lab(lab)
    deadline = time.monotonic() + parse_duration_s(timeout)
    for kind, name in workloads:
        printed = ""
        path = object_path(kind, namespace or "default", name)
        with with_suggestion(client, kind, namespace or "default", name):
            first = client.get(path)
        watch_path = kind_path(kind, namespace or "default")
        for document in _states(client, first, path, watch_path, deadline):
            if (missing := outstanding(document)) is None:
                break
            if missing != printed:
                echo(f"waiting: {missing}")
                printed = missing
        else:
            raise LabError(
                f"rollout of {kind.kind.lower()} {name} is not complete after {timeout}: {printed}"
            )
        echo(f"rollout of {kind.kind.lower()} {name} is complete")
    hint(f"kubenetlab get pods{f' -n {namespace}' if namespace else ''} -o wide")


def _states(
    client: Client, first: JsonMapping, path: str, watch_path: str, deadline: float
) -> Iterator[JsonMapping]:
    """Yield the first state of a workload, and its state after each change until the deadline.

    path: path of the workload in the API; watch_path: that of all workloads of its kind.

    Raises ApiError if the workload is deleted.
    """
    name = first["metadata"]["name"]
    yield first
    while time.monotonic() < deadline:
        has_event = False
        # If the agent dies, the watch ends. The next one begins with the existing objects.
        for event in client.stream(watch_path, deadline, watch="true"):
            has_event = True
            if event["object"]["metadata"].get("name") != name:
                continue
            if event["type"] == "DELETED":
                yield client.get(path)
            else:
                yield event["object"]
        if not has_event:
            time.sleep(RETRY_INTERVAL_S)


def outstanding(document: JsonMapping) -> str | None:
    """Return what a rollout still waits for, worded as by kubectl; None if it is complete."""
    spec, status_ = document["spec"], document.get("status", {})
    if status_.get("observedGeneration", 0) < document["metadata"].get("generation", 0):
        return "the controller has not yet observed the new template"
    if document["kind"] == "DaemonSet":
        desired = status_.get("desiredNumberScheduled", 0)
        updated = status_.get("updatedNumberScheduled", 0)
        available = status_.get("numberAvailable", 0)
        current = status_.get("currentNumberScheduled", 0)
    else:
        desired, updated = spec.get("replicas", 1), status_.get("updatedReplicas", 0)
        available, current = status_.get("availableReplicas", 0), status_.get("replicas", 0)
    partition = (
        spec.get("updateStrategy", {}).get("rollingUpdate", {}).get("partition", 0)
        if document["kind"] == "StatefulSet"
        else 0
    )
    if updated < desired - partition:
        return f"{updated} out of {desired - partition} new pods have been updated"
    if current > desired:
        return f"{current - desired} old pods are pending termination"
    return f"{available} of {desired} pods are available" if available < desired else None


def _workloads(command: str, resources: list[str]) -> list[tuple[type[Resource], str]]:
    """Return (kind, name) of each workload. Raises UsageError for other kinds."""
    from kubenetlab.api.apps import DaemonSet, Deployment, StatefulSet
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.input.object_names import parse_object_names
    from kubenetlab.errors import UsageError

    workloads: list[tuple[type[Resource], str]] = []
    for word, name in parse_object_names(command, resources):
        kind = find_kind(word)
        if kind is None or kind not in (Deployment, StatefulSet, DaemonSet):
            raise UsageError(
                f"{command}: expected a Deployment, StatefulSet or DaemonSet, "
                f"for example: {command} deployment web"
            )
        workloads.append((kind, name))
    return workloads
