"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.terminal.hints import ENVIRONMENT, remember_lab


class Output(StrEnum):
    """How data is printed."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"

    @property
    def is_data(self) -> bool:
        return self in (Output.json, Output.yaml)


class GetOutput(StrEnum):
    """How objects are printed: as data, too, by their names alone, or by a template."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"
    name = "name"
    jsonpath = "jsonpath"

    @property
    def is_data(self) -> bool:
        return self in (GetOutput.json, GetOutput.yaml)


def parse_get_output(text: str) -> tuple[GetOutput, str]:
    """Return how `-o` of get asks for objects, and the template of `jsonpath=…`. Raises BadParameter."""
    word, _, template = text.partition("=")
    known = [one.value for one in GetOutput]
    if word not in known or (template and word != GetOutput.jsonpath):
        raise typer.BadParameter(
            f"{text!r} is not one of {', '.join(known[:-1])}, jsonpath=TEMPLATE",
            param_hint="'-o' / '--output'",
        )
    if word == GetOutput.jsonpath and not template:
        raise typer.BadParameter(
            "jsonpath wants a template: -o jsonpath='{.items[*].metadata.name}'",
            param_hint="'-o' / '--output'",
        )
    return GetOutput(word), template


class PlanOutput(StrEnum):
    """How a plan is printed: as data, too, and as a shell script."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"
    sh = "sh"


class Drift(StrEnum):
    """The Cluster document's `drift`."""

    repair = "repair"
    keep = "keep"


def _lab(help_: str) -> Any:
    return typer.Option(
        "--lab",
        metavar="NAME",
        envvar=ENVIRONMENT,
        callback=remember_lab,
        help=help_,
        autocompletion=candidates("labs"),
    )


Lab = Annotated[str | None, _lab("Which lab; by default the only one that is up.")]
NewLab = Annotated[
    str | None,
    _lab(
        "Its name; else the Cluster document's, or `quickstart`. For options without -f: which lab that is up, else the only one."
    ),
]
"""Of commands that make labs as well."""
Files = Annotated[
    list[str] | None,
    typer.Option(
        "-f", "--filename", metavar="FILE|DIR|-", help="Manifests; may be given several times."
    ),
]
Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE…]", help="Manifests, as with -f.", show_default=False),
]
Kustomizations = Annotated[
    list[str] | None,
    typer.Option(
        "-k",
        "--kustomize",
        metavar="DIR",
        help="What kustomize builds of a folder; needs kustomize or kubectl here.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "-n",
        "--namespace",
        metavar="NS",
        help="The namespace; by default `default`.",
        autocompletion=candidates("namespaces"),
    ),
]
SelectorOption = Annotated[
    str,
    typer.Option(
        "-l",
        "--selector",
        metavar="KEY=VALUE,…",
        show_default=False,
        help="Only objects with these labels.",
    ),
]
AllNamespaces = Annotated[bool, typer.Option("-A", "--all-namespaces", help="All namespaces.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print data.")]
GetOutputOption = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="[table|wide|json|yaml|name|jsonpath=TEMPLATE]",
        help="How to print objects; `name`: only `pod/web-0` and the like.",
        autocompletion=lambda: [
            one.value + ("=" if one is GetOutput.jsonpath else "") for one in GetOutput
        ],
    ),
]
SortBy = Annotated[
    str,
    typer.Option(
        "--sort-by",
        metavar="FIELD",
        show_default=False,
        help="Sort by a field, such as `.metadata.creationTimestamp`.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Unknown fields and misconfigurations are errors.")
]
Cni = Annotated[
    str | None,
    typer.Option(
        "--cni",
        metavar="MODE[,OPTION=VALUE]…",
        help="The CNI mode, such as `bridge` or `none`.",
        autocompletion=candidates("cni_modes"),
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="MODE[,OPTION=VALUE]…",
        help="The kube-proxy mode, such as `nftables` or `none`.",
        autocompletion=candidates("proxy_modes"),
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        max=1000,
        help="How many nodes: one control plane, the rest workers.",
    ),
]
RealCommands = Annotated[
    bool,
    typer.Option(
        "--real-commands",
        help="Run the containers' commands that are programs of this machine, instead of stand-ins.",
    ),
]
UplinkOption = Annotated[
    bool | None,
    typer.Option(
        "--uplink/--no-uplink",
        show_default=False,
        help="Link the lab to this machine's own network, or no more. Needs root.",
    ),
]
DriftOption = Annotated[
    Drift | None,
    typer.Option(
        "--drift",
        help="What becomes of what somebody else changes in the lab: it is repaired at once, or kept until the next `up`.",
    ),
]
Timeout = Annotated[
    str,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        help="How long to wait for the pods, such as `60s` or `2m`.",
    ),
]


def manifest_files(
    paths: list[str] | None, files: list[str] | None, kustomizations: list[str] | None = None
) -> list[str] | None:
    """Return the folders of -k, the files of -f and those that stand alone; None without any. Raises UsageError for one that is not there."""
    from kubenetlab.cli.input.kustomize import Kustomization
    from kubenetlab.errors import UsageError

    for path in paths or ():
        if path != "-" and not os.path.exists(path):
            hint = f"; a lab's name is given with --lab {path}" if not set(path) & set("/.") else ""
            raise UsageError(f"there is no file or folder {path}{hint}")
    return [*map(Kustomization, kustomizations or ()), *(files or ()), *(paths or ())] or None


def mode(text: str) -> dict[str, object]:
    """Return `bridge,layout=routed` as the Cluster document writes it: `{type: bridge, layout: routed}`.

    A list has brackets: `ranges=[a,b]`. A dot leads into a mapping: `detectLocal.bridgeInterface=cbr0`.
    """
    name, *rest = re.split(r",(?![^\[]*\])", text)
    found: dict[str, object] = {"type": name}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f'"{part}": wanted OPTION=VALUE')
        *outer, last = key.split(".")
        place: dict[str, object] = found
        for name in outer:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                raise typer.BadParameter(f'"{part}": {name} has the value {inner} already')
            place = inner
        place[last] = (
            [part for part in value[1:-1].split(",") if part]
            if value.startswith("[")
            else _plain(value)
        )
    return found


def _plain(value: str) -> object:
    return {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)


def format_mode_option(name: str, value: object) -> str:
    """Return an option as the command line has it: the inverse of `mode`."""
    if isinstance(value, Mapping):
        return ",".join(format_mode_option(f"{name}.{key}", inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return f"{name}=[{','.join(map(str, value))}]"
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def parse_duration_s(text: str) -> float:
    """`90`, `60s`, `1m30s` in seconds."""
    from kubenetlab.api.durations import duration_s

    value = duration_s(f"{text}s" if text.isdigit() else text)
    if value is None:
        raise typer.BadParameter(f'"{text}": wanted a duration such as 60s or 2m')
    return value
