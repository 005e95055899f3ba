"""scale: set the number of replicas of workloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace
from kubenetlab.cli.terminal.printing import echo, hint

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource

MAX_REPLICAS: Final = 20_000
"""Maximum number of replicas; protects the machine against a typing error."""


def scale(
    resources: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND NAME | KIND/NAME | KIND:NS/NAME [N]",
            help="Deployment, ReplicaSet or StatefulSet, then the number of pods or --replicas.",
            show_default=False,
            autocompletion=candidates("scalable"),
        ),
    ],
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=0, max=MAX_REPLICAS, help="Desired number of pods."),
    ] = None,
    namespace: Namespace = None,
    lab: Lab = None,
) -> None:
    """Set the number of pods of a workload.

    Example: kubenetlab scale deployment web --replicas 5
    """
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab
    from kubenetlab.lab.paths import object_path

    if replicas is None:
        *resources, last = resources
        if not last.isdecimal() or len(last) > len(str(MAX_REPLICAS)) or int(last) > MAX_REPLICAS:
            example = f"kubenetlab scale {' '.join([*resources, last])} --replicas 3"
            raise UsageError(
                f"scale: expected the number of pods, from 0 to {MAX_REPLICAS}, "
                f"for example: {example}"
            )
        replicas = int(last)
    if not resources:
        raise UsageError("scale: expected a kind and a name, for example: scale deployment web 3")
    workloads = list(_workloads(resources, namespace))
    client = select_lab(lab)
    for kind, own_namespace, name in workloads:
        path = f"{object_path(kind, own_namespace, name)}/scale"
        with with_suggestion(client, kind, own_namespace, name):
            reply = client.request("PUT", path, {"spec": {"replicas": replicas}}).body
        echo(f"{kind.kind.lower()} {name} scaled from {reply['status']['replicas']} to {replicas}")
    hint(f"kubenetlab get pods{f' -n {namespace}' if namespace else ''} -w")


def _workloads(
    resources: Sequence[str], namespace: str | None
) -> Iterator[tuple[type[Resource], str, str]]:
    """Yield kind, namespace and name of each workload, such as `deploy/web` or `deploy:shop/web`.

    Raises UsageError for an unknown kind, and for a target that is no workload.
    """
    from kubenetlab.api.kinds import find_kind, known_words
    from kubenetlab.cli.input.object_names import parse_object_names
    from kubenetlab.errors import UsageError, did_you_mean
    from kubenetlab.observe.targets.grammar import DEFAULT_NAMESPACE, WORKLOADS, parse

    own_namespace = namespace or DEFAULT_NAMESPACE
    if ":" in resources[0]:
        for text in resources:
            target = parse(text, namespace)
            kind = find_kind(WORKLOADS.get(target.kind, ""))
            if kind is None or not target.is_bare:
                raise UsageError(
                    f"scale: expected a workload, such as deploy:{own_namespace}/web, found {text}"
                )
            yield kind, target.namespace, target.name
        return
    for word, name in parse_object_names("scale", resources):
        kind = find_kind(word)
        if kind is None:
            remedy = did_you_mean(word, known_words()) or (
                f"; a workload of a namespace is written deploy:{word}/{name}"
            )
            raise UsageError(f'scale: there is no kind "{word}"{remedy}')
        yield kind, own_namespace, name
