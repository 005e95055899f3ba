"""Candidates for completion: labs, kinds, objects, locations, modes, fields.

The user has pressed a key and waits, so an error or a slow lab yields no candidates and no message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import typer

from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client

TIMEOUT_S: Final = 1.0
"""Time allowed for the lab to reply, in seconds."""


def labs() -> list[str]:
    """Return the labs that are up."""
    from kubenetlab.errors import KubenetlabError
    from kubenetlab.lab import rundir

    try:
        return [name for name in rundir.lab_names() if rundir.is_alive(name)]
    except (KubenetlabError, OSError):
        return []


def namespaces(ctx: typer.Context) -> list[str]:
    """Return the namespaces of the lab."""
    from kubenetlab.api.core import Namespace

    return _names(ctx, Namespace)


def objects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return kinds for the first argument, then names of that kind; or KIND/NAME."""
    from kubenetlab.api.kinds import SERVED

    return _objects(ctx, incomplete, SERVED)


def scalable(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return candidates as `objects`, for kinds with replicas."""
    from typing import get_args

    from kubenetlab.api.apps import Scalable

    return _objects(ctx, incomplete, get_args(Scalable))


def rollout_workloads(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return candidates as `objects`, for kinds that replace pods when the template changes."""
    from kubenetlab.api.apps import DaemonSet, Deployment, StatefulSet

    return _objects(ctx, incomplete, (Deployment, StatefulSet, DaemonSet))


def pods(ctx: typer.Context) -> list[str]:
    """Return pods, and workloads as `deploy:web`; those of other namespaces as NAMESPACE/NAME."""
    from kubenetlab.observe.targets.grammar import WORKLOADS

    items = _inspect(ctx)["pods"]
    prefixes = {kind: prefix for prefix, kind in WORKLOADS.items()}
    workloads = [
        (pod["namespace"], *str(pod["workload"]).split("/")) for pod in items if pod["workload"]
    ]
    workload_targets = [
        f"{prefixes[kind]}:{_target_name(ctx, namespace, name)}"
        for namespace, kind, name in workloads
        if kind in prefixes
    ]
    return [
        *(_target_name(ctx, pod["namespace"], pod["name"]) for pod in items),
        *dict.fromkeys(workload_targets),
    ]


def locations(ctx: typer.Context) -> list[str]:
    """Return pods, workloads, nodes and external hosts."""
    inspected = _inspect(ctx)
    return [
        *pods(ctx),
        *(f"node:{node['name']}" for node in inspected["nodes"]),
        *(f"ext:{host['name']}" for host in inspected["external"]),
    ]


def destinations(ctx: typer.Context) -> list[str]:
    """Return locations and Services."""
    return [
        *locations(ctx),
        *(
            f"svc:{_target_name(ctx, service['namespace'], service['name'])}"
            for service in _inspect(ctx)["services"]
        ),
    ]


def cni_modes() -> list[str]:
    """Return the names of the CNI modes."""
    from kubenetlab.datapath.modes import known

    return list(known("cni"))


def proxy_modes() -> list[str]:
    """Return the names of the kube-proxy modes."""
    from kubenetlab.datapath.modes import known

    return list(known("proxy"))


def policy_engines() -> list[str]:
    """Return the names of the engines of network policies."""
    from kubenetlab.datapath.modes import known

    return list(known("policy"))


def faults() -> list[str]:
    """Return the names of the faults that `break` can inject."""
    from kubenetlab.datapath.faults import known

    return list(known())


def fault_ids(ctx: typer.Context) -> list[str]:
    """Return the IDs of the lab's active faults."""
    from kubenetlab.api.faults import Fault

    return _names(ctx, Fault)


def nodes(ctx: typer.Context) -> list[str]:
    """Return the nodes of the lab."""
    return [node["name"] for node in _inspect(ctx)["nodes"]]


def how_values(ctx: typer.Context) -> list[str]:
    """Return the values of --how for the fault on the command line."""
    from kubenetlab.datapath.faults import values

    return values(str(ctx.params.get("fault") or ""), "how")


def manifest_kinds() -> list[str]:
    """Return the kinds that a manifest may contain."""
    from kubenetlab.api.kinds import WRITABLE

    return [kind.kind.lower() for kind in WRITABLE]


def explainable(incomplete: str) -> list[str]:
    """Return modes, faults and kinds; after a kind and a dot, its fields.

    If one candidate with subfields is left, also return it with a dot, so that the shell continues.
    """
    from kubenetlab.api.kinds import SERVED, find_kind
    from kubenetlab.api.schema.fields import explain
    from kubenetlab.datapath import faults
    from kubenetlab.datapath.modes import FAMILIES, known
    from kubenetlab.errors import UsageError

    word, _, path = incomplete.partition(".")
    kind = find_kind(word)
    if kind is None or "." not in incomplete:
        modes = (name for family in FAMILIES for name in known(family))
        has_fields = dict.fromkeys((*modes, *faults.known()), False) | {
            served_kind.kind.lower(): True for served_kind in SERVED
        }
    else:
        parent = path.rpartition(".")[0]
        try:
            fields = explain(kind, parent).fields
        except UsageError:
            return []
        has_fields = {
            ".".join(part for part in (word, parent, field.name) if part): field.has_fields
            for field in fields
        }
    matching = [name for name in has_fields if name.startswith(incomplete)]
    return (
        [*matching, f"{matching[0]}."]
        if len(matching) == 1 and has_fields[matching[0]]
        else matching
    )


def modes_of_family(ctx: typer.Context) -> list[str]:
    """Return the modes of the family that is the first argument."""
    from kubenetlab.datapath.modes import FAMILIES, known

    family = ctx.params.get("subject")
    return list(known(family)) if family in FAMILIES else []


def _objects(ctx: typer.Context, incomplete: str, kinds: Iterable[type[Resource]]) -> list[str]:
    arguments = list(ctx.params.get("resources") or ())
    word, slash, _ = incomplete.partition("/")
    if slash:
        return [f"{word}/{name}" for name in _names(ctx, _kind(ctx, word, ()))]
    if arguments and "/" not in arguments[0]:
        kind = _kind(ctx, arguments[0], arguments[1:])
        return [name for name in _names(ctx, kind) if name not in arguments]
    before = incomplete[: incomplete.rfind(",") + 1]
    return [f"{before}{kind.plural}" for kind in kinds]


def _kind(ctx: typer.Context, word: str, names: Sequence[str]) -> type[Resource] | None:
    """Return the kind that a word means in the lab, as in the command; None for an unknown one.

    names: names of objects before the one that is completed.
    """
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.input.shared_names import kind_in_lab
    from kubenetlab.errors import KubenetlabError

    kind = find_kind(word)
    if kind is None:
        return None
    try:
        return kind_in_lab(_client(ctx), word, kind, names)
    except (KubenetlabError, OSError):
        return kind


def _names(ctx: typer.Context, kind: type[Resource] | None) -> list[str]:
    """Return the names of the objects of a kind in the selected namespace."""
    from kubenetlab.lab.paths import kind_path

    reply = _get(ctx, kind_path(kind, _namespace(ctx))) if kind is not None else None
    return [item["metadata"]["name"] for item in reply["items"]] if reply is not None else []


def _inspect(ctx: typer.Context) -> JsonMapping:
    """Return the reply to `inspect`, cached; empty lists if no lab replies."""
    if "inspected" not in ctx.meta:
        ctx.meta["inspected"] = _get(ctx, f"{LAB_API}/inspect")
    return ctx.meta["inspected"] or {"pods": (), "nodes": (), "external": (), "services": ()}


def _get(ctx: typer.Context, path: str) -> JsonValue:
    """Return the lab's reply to a GET; None if no lab is selected or it does not reply in time."""
    from kubenetlab.errors import KubenetlabError

    try:
        return _client(ctx).get(path)
    except (KubenetlabError, OSError):
        return None


def _client(ctx: typer.Context) -> Client:
    """Return a client of the selected lab that does not wait long. Raises KubenetlabError."""
    from kubenetlab.lab.client import Client, select_lab

    return Client(select_lab(ctx.params.get("lab")).lab, TIMEOUT_S)


def _namespace(ctx: typer.Context) -> str:
    return ctx.params.get("namespace") or "default"


def _target_name(ctx: typer.Context, namespace: str, name: str) -> str:
    """Return a name as in a target: with its namespace unless that is the selected one."""
    return name if namespace == _namespace(ctx) else f"{namespace}/{name}"
