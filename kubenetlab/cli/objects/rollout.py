"""rollout: replace a workload's pods, and wait until it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Timeout, parse_duration_s
from kubenetlab.cli.input.short_options import Command
from kubenetlab.cli.terminal.printing import echo, hint

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource

POLL_S = 0.02

_APPLY: Final = "kubenetlab apply -f FILE, with the manifest as it was: the lab keeps no revisions"
_INSTEAD: Final = {
    "undo": _APPLY,
    "history": "kubenetlab get replicasets",
    "pause": "kubenetlab get KIND/NAME -o yaml > FILE; set spec.paused; kubenetlab apply -f FILE",
    "resume": "kubenetlab get KIND/NAME -o yaml > FILE; remove spec.paused; kubenetlab apply -f FILE",
}
"""Subcommand of kubectl rollout → what to type here."""


class _Group(TyperGroup):
    """A group that names another command for kubectl's other subcommands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _INSTEAD:
            from kubenetlab.errors import UsageError

            raise UsageError(f"there is no command rollout {args[0]}; type: {_INSTEAD[args[0]]}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    help="Replace a workload's pods, or wait until that is done.",
)

What = Annotated[
    list[str],
    typer.Argument(
        metavar="KIND NAME | KIND/NAME",
        help="A Deployment, StatefulSet or DaemonSet.",
        show_default=False,
        autocompletion=candidates("rollout_workloads"),
    ),
]


@app.command(cls=Command)
def restart(what: What, namespace: Namespace = None, lab: Lab = None) -> None:
    """Replace all pods by new ones, as the workload's strategy says. Example: kubenetlab rollout restart deployment web"""
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.lab.client import choose
    from kubenetlab.lab.paths import object_path

    workloads = _workloads("rollout restart", what)
    client = choose(lab)
    for kind, name in workloads:
        with with_suggestion(client, kind, namespace or "default", name):
            client.request("PUT", f"{object_path(kind, namespace or 'default', name)}/restart")
        echo(f"{kind.kind.lower()} {name} restarted")
    hint(f"kubenetlab rollout status {' '.join(what)}{f' -n {namespace}' if namespace else ''}")


@app.command(cls=Command)
def status(
    what: What, namespace: Namespace = None, timeout: Timeout = "60s", lab: Lab = None
) -> None:
    """Wait until a workload has all its pods, of its present template, ready. Example: kubenetlab rollout status deployment web"""
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import choose
    from kubenetlab.lab.paths import object_path

    workloads = _workloads("rollout status", what)
    client = choose(lab)
    deadline = time.monotonic() + parse_duration_s(timeout)
    for kind, name in workloads:
        told = ""
        path = object_path(kind, namespace or "default", name)
        with with_suggestion(client, kind, namespace or "default", name):
            client.get(path)
        while (missing := outstanding(client.get(path))) is not None:
            if missing != told:
                echo(f"waiting: {missing}")
                told = missing
            if time.monotonic() >= deadline:
                raise LabError(
                    f"{kind.kind.lower()} {name} is not rolled out after {timeout}: {missing}"
                )
            time.sleep(POLL_S)
        echo(f"{kind.kind.lower()} {name} is rolled out")
    hint(f"kubenetlab get pods{f' -n {namespace}' if namespace else ''} -o wide")


def outstanding(document: Mapping[str, Any]) -> str | None:
    """What a workload still lacks, in kubectl's words; None when it has everything."""
    spec, now = document["spec"], document.get("status", {})
    if now.get("observedGeneration", 0) < document["metadata"].get("generation", 0):
        return "its new template has not been seen yet"
    if document["kind"] == "DaemonSet":
        wanted, updated = now.get("desiredNumberScheduled", 0), now.get("updatedNumberScheduled", 0)
        ready, there = now.get("numberAvailable", 0), now.get("currentNumberScheduled", 0)
    else:
        wanted, updated = spec.get("replicas", 1), now.get("updatedReplicas", 0)
        ready, there = now.get("availableReplicas", 0), now.get("replicas", 0)
    partition = (
        spec.get("updateStrategy", {}).get("rollingUpdate", {}).get("partition", 0)
        if document["kind"] == "StatefulSet"
        else 0
    )
    if updated < wanted - partition:
        return f"{updated} out of {wanted - partition} new pods have been updated"
    if there > wanted:
        return f"{there - wanted} old pods are still there"
    return f"{ready} of {wanted} pods are available" if ready < wanted else None


def _workloads(command: str, what: list[str]) -> list[tuple[type[Resource], str]]:
    from kubenetlab.api.apps import DaemonSet, Deployment, StatefulSet
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.input.object_names import parse_object_names
    from kubenetlab.errors import UsageError

    found: list[tuple[type[Resource], str]] = []
    for word, name in parse_object_names(command, what):
        kind = find_kind(word)
        if kind is None or kind not in (Deployment, StatefulSet, DaemonSet):
            raise UsageError(
                f"{command}: wanted a Deployment, StatefulSet or DaemonSet by name, as in: {command} deployment web"
            )
        found.append((kind, name))
    return found
