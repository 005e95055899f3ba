"""logs: print what containers have written, of one pod or of all pods with some labels."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, SelectorOption, parse_duration_s
from kubenetlab.cli.input.selection import fetch
from kubenetlab.cli.terminal.printing import echo, hint, rendered
from kubenetlab.cli.terminal.theme import MUTED, paint

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client

DEFAULT_TAIL_BY_LABELS: Final = 10
"""Default of --tail with -l, in lines per pod, as in kubectl."""


def logs(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help=(
                "Pod (\\[ns/]name), or a workload for one of its pods: "
                "deploy:\\[ns/]name, sts:, ds:, job:, rs:."
            ),
            show_default=False,
            autocompletion=candidates("pods"),
        ),
    ] = None,
    namespace: Namespace = None,
    container: Annotated[
        str | None,
        typer.Option(
            "-c",
            "--container",
            metavar="NAME",
            help="Name of the container. Default: the first.",
        ),
    ] = None,
    selector: SelectorOption = "",
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Begin each line with the pod and the container.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail",
            metavar="N",
            min=0,
            help="Number of last lines. Default: all, or 10 with -l.",
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="DURATION",
            help="Only lines newer than this, such as `5m`.",
        ),
    ] = "",
    since_time: Annotated[
        str,
        typer.Option(
            "--since-time",
            metavar="TIME",
            help="Only lines since this time, such as 2026-01-31T12:00:00Z.",
        ),
    ] = "",
    follow: Annotated[
        bool,
        typer.Option("-f", "--follow", help="Print new lines until the container ends."),
    ] = False,
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="Log of the run before the last restart.")
    ] = False,
    lab: Lab = None,
) -> None:
    """Show the log of a container.

    A built-in program logs the requests that it answers.

    Example: kubenetlab logs client -f
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.targets.resolution import pod_of, read

    if follow and previous:
        raise UsageError("-f cannot be combined with -p: the previous run has ended")
    if since and since_time:
        raise UsageError("--since cannot be combined with --since-time")
    if (target is None) == (not selector):
        raise UsageError(
            "expected a pod or labels, for example: logs web-0, or logs -l app=web"
            if target is None
            else f"-l cannot be combined with {target}"
        )
    client = select_lab(lab)
    if target is not None:
        inspected = client.inspect()
        pods = [pod_of(read(target, inspected, namespace), inspected)]
    else:
        pods = _with_labels(client, namespace or "default", selector)
        tail = DEFAULT_TAIL_BY_LABELS if tail is None and not follow else tail
        if not pods:
            echo(f"nothing found in namespace {namespace or 'default'} with the labels {selector}")
            hint("kubenetlab get pods -A")
            return
    query = {"container": container} if container else {}
    query |= {"tailLines": str(tail)} if tail is not None else {}
    query |= (
        {"sinceSeconds": f"{parse_duration_s(since):g}"}
        if since
        else {"sinceTime": since_time}
        if since_time
        else {}
    )
    container_logs = [_Log(client, *pod, container, has_prefix=prefix) for pod in pods]
    if follow:
        _follow(container_logs, query)
    else:
        for log in container_logs:
            log.print(client.text(log.path, **query, **({"previous": "true"} if previous else {})))
    pod_namespace, name = pods[0]
    hint(
        f"kubenetlab describe pod {name}"
        + (f" -n {pod_namespace}" if pod_namespace != "default" else "")
    )


class _Log:
    """The log of one container."""

    def __init__(
        self, client: Client, namespace: str, pod: str, container: str | None, *, has_prefix: bool
    ) -> None:
        from kubenetlab.api.pods import Pod
        from kubenetlab.lab.paths import object_path

        self.client = client
        self.path = f"{object_path(Pod, namespace, pod)}/log"
        if has_prefix and container is None:
            container = client.get(object_path(Pod, namespace, pod))["spec"]["containers"][0][
                "name"
            ]
        title = rendered(paint(f"[pod/{pod}/{container}]", MUTED))
        self._prefix = f"{title} " if has_prefix else ""

    def print(self, text: str) -> None:
        """Print whole lines, each after the prefix."""
        typer.echo(
            "".join(f"{self._prefix}{line}" for line in text.splitlines(keepends=True))
            if self._prefix
            else text,
            nl=False,
        )


def _with_labels(client: Client, namespace: str, selector: str) -> list[tuple[str, str]]:
    """Return (namespace, name) of the pods that have the labels."""
    from kubenetlab.api.pods import Pod

    return [
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in fetch(client, Pod, [], namespace, selector=selector)
    ]


def _follow(logs: Sequence[_Log], query: Mapping[str, str]) -> None:
    """Print new lines of all logs, in order of arrival, until all containers have ended."""
    if len(logs) == 1:
        _follow_one(logs[0], query)
        return
    threads = [threading.Thread(target=_follow_one, args=(log, query), daemon=True) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _follow_one(log: _Log, query: Mapping[str, str]) -> None:
    for piece in log.client.stream_parts(log.path, **query, follow="true"):
        log.print(piece.decode(errors="replace"))
