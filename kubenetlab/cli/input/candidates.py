"""What can follow on a command line: labs, kinds, objects, places, modes, fields.

Somebody has pressed a key and waits. What no lab can tell, or not at once, is left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource

PATIENCE_S: Final = 1.0
"""How long a lab is waited for."""


def labs() -> list[str]:
    """The labs that are up."""
    from kubenetlab.errors import KubenetlabError
    from kubenetlab.lab import rundir

    try:
        return [name for name in rundir.names() if rundir.is_alive(name)]
    except (KubenetlabError, OSError):
        return []


def namespaces(ctx: typer.Context) -> list[str]:
    """The namespaces of the lab."""
    from kubenetlab.api.core import Namespace

    return _names(ctx, Namespace)


def objects(ctx: typer.Context, incomplete: str) -> list[str]:
    """A kind, then names; or KIND/NAME."""
    from kubenetlab.api.kinds import SERVED

    return _objects(ctx, incomplete, SERVED)


def scalable(ctx: typer.Context, incomplete: str) -> list[str]:
    """The same, of what has a number of replicas."""
    from typing import get_args

    from kubenetlab.api.apps import Scalable

    return _objects(ctx, incomplete, get_args(Scalable))


def rollout_workloads(ctx: typer.Context, incomplete: str) -> list[str]:
    """The same, of what replaces its pods when their template changes."""
    from kubenetlab.api.apps import DaemonSet, Deployment, StatefulSet

    return _objects(ctx, incomplete, (Deployment, StatefulSet, DaemonSet))


def pods(ctx: typer.Context) -> list[str]:
    """Pods, and workloads for one of theirs; those of other namespaces with their namespace."""
    from kubenetlab.observe.grammar import WORKLOADS

    found = _seen(ctx)["pods"]
    prefixes = {kind: prefix for prefix, kind in WORKLOADS.items()}
    workloads = [
        (pod["namespace"], *str(pod["workload"]).split("/")) for pod in found if pod["workload"]
    ]
    shown = [
        f"{prefixes[kind]}:{_short(ctx, namespace, name)}"
        for namespace, kind, name in workloads
        if kind in prefixes
    ]
    return [*(_short(ctx, pod["namespace"], pod["name"]) for pod in found), *dict.fromkeys(shown)]


def locations(ctx: typer.Context) -> list[str]:
    """Whatever one can be inside of: pods, nodes, external hosts."""
    seen = _seen(ctx)
    return [
        *pods(ctx),
        *(f"node:{node['name']}" for node in seen["nodes"]),
        *(f"ext:{host['name']}" for host in seen["external"]),
    ]


def destinations(ctx: typer.Context) -> list[str]:
    """Places, and Services."""
    return [
        *locations(ctx),
        *(
            f"svc:{_short(ctx, service['namespace'], service['name'])}"
            for service in _seen(ctx)["services"]
        ),
    ]


def cni_modes() -> list[str]:
    """The names of the CNI modes."""
    from kubenetlab.datapath.modes import known

    return list(known("cni"))


def proxy_modes() -> list[str]:
    """The names of the kube-proxy modes."""
    from kubenetlab.datapath.modes import known

    return list(known("proxy"))


def faults() -> list[str]:
    """What can be broken."""
    from kubenetlab.datapath.faults import known

    return list(known())


def fault_ids(ctx: typer.Context) -> list[str]:
    """The numbers of the faults there are."""
    from kubenetlab.api.faults import Fault

    return _names(ctx, Fault)


def nodes(ctx: typer.Context) -> list[str]:
    """The nodes of the lab."""
    return [node["name"] for node in _seen(ctx)["nodes"]]


def how_values(ctx: typer.Context) -> list[str]:
    """In which ways the fault can be that stands on the line."""
    from kubenetlab.datapath.faults import values

    return values(str(ctx.params.get("fault") or ""), "how")


def manifest_kinds() -> list[str]:
    """The kinds that a manifest may hold."""
    from kubenetlab.api.kinds import WRITABLE

    return [kind.kind.lower() for kind in WRITABLE]


def explainable(incomplete: str) -> list[str]:
    """Modes and kinds; behind a kind and a dot its fields. The last one left that has fields below comes with a dot, too."""
    from kubenetlab.api.fields import explain
    from kubenetlab.api.kinds import SERVED, find_kind
    from kubenetlab.datapath import faults
    from kubenetlab.datapath.modes import known
    from kubenetlab.errors import UsageError

    word, _, path = incomplete.partition(".")
    kind = find_kind(word)
    if kind is None or "." not in incomplete:
        has_fields = dict.fromkeys((*known("cni"), *known("proxy"), *faults.known()), False) | {
            each.kind.lower(): True for each in SERVED
        }
    else:
        above = path.rpartition(".")[0]
        try:
            fields = explain(kind, above).fields
        except UsageError:
            return []
        has_fields = {
            ".".join(part for part in (word, above, field.name) if part): field.has_fields
            for field in fields
        }
    found = [name for name in has_fields if name.startswith(incomplete)]
    return [*found, f"{found[0]}."] if len(found) == 1 and has_fields[found[0]] else found


def _objects(ctx: typer.Context, incomplete: str, kinds: Iterable[type[Resource]]) -> list[str]:
    from kubenetlab.api.kinds import find_kind

    given = list(ctx.params.get("what") or ())
    word, slash, _ = incomplete.partition("/")
    if slash:
        return [f"{word}/{name}" for name in _names(ctx, find_kind(word))]
    if given and "/" not in given[0]:
        return [name for name in _names(ctx, find_kind(given[0])) if name not in given]
    before = incomplete[: incomplete.rfind(",") + 1]
    return [f"{before}{kind.plural}" for kind in kinds]


def _names(ctx: typer.Context, kind: type[Resource] | None) -> list[str]:
    """The names of a kind's objects in the namespace meant."""
    from kubenetlab.lab.paths import kind_path

    found = _asked(ctx, kind_path(kind, _namespace(ctx))) if kind is not None else None
    return [item["metadata"]["name"] for item in found["items"]] if found is not None else []


def _seen(ctx: typer.Context) -> Mapping[str, Any]:
    """What `inspect` shows; nothing when there is no lab."""
    if "seen" not in ctx.meta:
        ctx.meta["seen"] = _asked(ctx, f"{LAB_API}/inspect")
    return ctx.meta["seen"] or {"pods": (), "nodes": (), "external": (), "services": ()}


def _asked(ctx: typer.Context, path: str) -> Any:
    """What the lab's API answers; None when there is no lab, none that is meant, or none that answers soon."""
    from kubenetlab.errors import KubenetlabError
    from kubenetlab.lab.client import Client, choose

    try:
        return Client(choose(ctx.params.get("lab")).lab, PATIENCE_S).get(path)
    except (KubenetlabError, OSError):
        return None


def _namespace(ctx: typer.Context) -> str:
    return ctx.params.get("namespace") or "default"


def _short(ctx: typer.Context, namespace: str, name: str) -> str:
    """As a target is written: the namespace only where it is another than the one meant."""
    return name if namespace == _namespace(ctx) else f"{namespace}/{name}"
