"""logs: what containers have written, of one pod or of all that have some labels."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, SelectorOption, parse_duration_s
from kubenetlab.cli.input.selection import fetch
from kubenetlab.cli.terminal.printing import DIM, echo, hint, paint

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client

TAIL_OF_MANY: Final = 10
"""Lines shown of each of several pods unless --tail says otherwise, as by kubectl."""


def logs(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="\\[ns/]pod, or a workload for one of its pods: deploy:\\[ns/]name, sts:, ds:, job:, rs:.",
            show_default=False,
            autocompletion=candidates("pods"),
        ),
    ] = None,
    namespace: Namespace = None,
    container: Annotated[
        str | None,
        typer.Option(
            "-c", "--container", metavar="NAME", help="Which container; by default the first."
        ),
    ] = None,
    selector: SelectorOption = "",
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Begin each line with the pod and the container.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail", metavar="N", min=0, help="Only the last lines; with -l 10 by default."
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="DURATION", help="Only lines of the last while, such as `5m`."
        ),
    ] = "",
    since_time: Annotated[
        str,
        typer.Option(
            "--since-time",
            metavar="TIME",
            help="Only lines since then, such as 2026-01-31T12:00:00Z.",
        ),
    ] = "",
    follow: Annotated[
        bool,
        typer.Option("-f", "--follow", help="Go on with what comes, until the container ends."),
    ] = False,
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="Of the run before the last restart.")
    ] = False,
    lab: Lab = None,
) -> None:
    """Show what a container's program has seen. Example: kubenetlab logs client -f"""
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import choose
    from kubenetlab.observe.targets import pod_of, read

    if follow and previous:
        raise UsageError("-f cannot be combined with -p: nothing comes from a run that has ended")
    if since and since_time:
        raise UsageError("--since cannot be combined with --since-time")
    if (target is None) == (not selector):
        raise UsageError(
            "wanted a pod or labels, as in: logs web-0, or logs -l app=web"
            if target is None
            else f"-l cannot be combined with {target}"
        )
    client = choose(lab)
    if target is not None:
        seen = client.inspect()
        pods = [pod_of(read(target, seen, namespace), seen)]
    else:
        pods = _with_labels(client, namespace or "default", selector)
        tail = TAIL_OF_MANY if tail is None and not follow else tail
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
    logs_ = [_Log(client, *pod, container, has_prefix=prefix) for pod in pods]
    if follow:
        _follow(logs_, query)
    else:
        for one in logs_:
            one.print(client.text(one.path, **query, **({"previous": "true"} if previous else {})))
    where, name = pods[0]
    hint(f"kubenetlab describe pod {name}" + (f" -n {where}" if where != "default" else ""))


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
        self._prefix = paint(f"[pod/{pod}/{container}]", DIM) + " " if has_prefix else ""

    def print(self, text: str) -> None:
        """Print whole lines, each with the prefix."""
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
    """Print what comes from each until all have ended; of several, pieces in the order in which they come."""
    if len(logs) == 1:
        _follow_one(logs[0], query)
        return
    threads = [threading.Thread(target=_follow_one, args=(log, query), daemon=True) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _follow_one(log: _Log, query: Mapping[str, str]) -> None:
    for piece in log.client.pieces(log.path, **query, follow="true"):
        log.print(piece.decode(errors="replace"))
