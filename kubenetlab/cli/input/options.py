"""Options that several commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.terminal.hints import ENVIRONMENT, remember_lab


class Output(StrEnum):
    """Output formats of most commands."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"

    @property
    def is_data(self) -> bool:
        return self in (Output.json, Output.yaml)


class GetOutput(StrEnum):
    """Output formats of `get`."""

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
    """Return the format that `-o` of `get` names, and the template of `jsonpath=…`.

    Raises BadParameter.
    """
    word, _, template = text.partition("=")
    known = [output.value for output in GetOutput]
    if word not in known or (template and word != GetOutput.jsonpath):
        raise typer.BadParameter(
            f"{text!r} is not one of {', '.join(known[:-1])}, jsonpath=TEMPLATE",
            param_hint="'-o' / '--output'",
        )
    if word == GetOutput.jsonpath and not template:
        raise typer.BadParameter(
            "jsonpath needs a template, for example -o jsonpath='{.items[*].metadata.name}'",
            param_hint="'-o' / '--output'",
        )
    return GetOutput(word), template


class PlanOutput(StrEnum):
    """Output formats of `plan`."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"
    sh = "sh"


class Drift(StrEnum):
    """Values of the Cluster document's field `drift`."""

    repair = "repair"
    keep = "keep"


class IpFamilies(StrEnum):
    """Values of the Cluster document's field `networking.ipFamily`."""

    ipv4 = "ipv4"
    ipv6 = "ipv6"
    dual = "dual"


def _lab(help_: str) -> Any:
    return typer.Option(
        "--lab",
        metavar="NAME",
        envvar=ENVIRONMENT,
        callback=remember_lab,
        help=help_,
        autocompletion=candidates("labs"),
    )


Lab = Annotated[str | None, _lab("Name of the lab. Default: the only lab that is up.")]
NewLab = Annotated[
    str | None,
    _lab(
        "Name of the lab. Default: the name in the Cluster document, or `quickstart`. "
        "For options without -f: a lab that is up; default: the only one."
    ),
]
"""`--lab` of commands that can also make a lab."""
Files = Annotated[
    list[str] | None,
    typer.Option(
        "-f",
        "--filename",
        metavar="FILE|DIR|-",
        help="Manifests: a file, a directory, or `-` for standard input. May be repeated.",
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
        help="Directory to build with kustomize. Needs kustomize or kubectl.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "-n",
        "--namespace",
        metavar="NS",
        help="Namespace. Default: `default`.",
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
AllNamespaces = Annotated[
    bool, typer.Option("-A", "--all-namespaces", help="Objects of all namespaces.")
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Output format.")]
GetOutputOption = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="[table|wide|json|yaml|name|jsonpath=TEMPLATE]",
        help="Output format; `name` prints only names such as `pod/web-0`.",
        autocompletion=lambda: [
            output.value + ("=" if output is GetOutput.jsonpath else "") for output in GetOutput
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
    bool, typer.Option("--strict", help="Treat unknown fields and misconfigurations as errors.")
]
Cni = Annotated[
    str | None,
    typer.Option(
        "--cni",
        metavar="MODE[,OPTION=VALUE]…",
        help="CNI mode, such as `bridge`, or `'{type: bridge, layout: routed}'`; see `modes`.",
        autocompletion=candidates("cni_modes"),
    ),
]
IpFamily = Annotated[
    IpFamilies | None,
    typer.Option("--ip-family", help="IP families of the lab; of `dual`, IPv4 is measured."),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="MODE[,OPTION=VALUE]…",
        help="kube-proxy mode, such as `nftables` or `none`; see `modes`.",
        autocompletion=candidates("proxy_modes"),
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="ENGINE[,OPTION=VALUE]…",
        help="Engine of network policies, such as `nftables` or `none`; see `modes`.",
        autocompletion=candidates("policy_engines"),
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        max=1000,
        help="Number of nodes: one control plane, the others workers.",
    ),
]
RealCommands = Annotated[
    bool,
    typer.Option(
        "--real-commands",
        help="Run the containers' commands as programs of this machine, not built-in programs.",
    ),
]
UplinkOption = Annotated[
    bool | None,
    typer.Option(
        "--uplink/--no-uplink",
        show_default=False,
        help="Connect the lab to this machine's network, or disconnect it. Needs root.",
    ),
]
DriftOption = Annotated[
    Drift | None,
    typer.Option(
        "--drift",
        help=(
            "Treatment of changes that other programs make in the lab: "
            "repair them at once, or keep them until the next `up`."
        ),
    ),
]
Timeout = Annotated[
    str,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        help="Time to wait for the pods, such as `60s` or `2m`.",
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the pods.")]


def manifest_files(
    paths: list[str] | None, files: list[str] | None, kustomizations: list[str] | None = None
) -> list[str] | None:
    """Return the directories of -k, the paths of -f and the plain paths; None if there are none.

    Raises UsageError for a plain path that does not exist.
    """
    from kubenetlab.cli.input.kustomize import Kustomization
    from kubenetlab.errors import UsageError

    for path in paths or ():
        if path != "-" and not os.path.exists(path):
            hint = f"; to name a lab, use --lab {path}" if not set(path) & set("/.") else ""
            raise UsageError(f"there is no file or directory {path}{hint}")
    return [*map(Kustomization, kustomizations or ()), *(files or ()), *(paths or ())] or None


def parse_duration_s(text: str) -> float:
    """Return a duration such as `90`, `60s` or `1m30s` in seconds. Raises BadParameter."""
    from kubenetlab.api.values.durations import duration_s

    value = duration_s(f"{text}s" if text.isdigit() else text)
    if value is None:
        raise typer.BadParameter(f'"{text}": expected a duration such as 60s or 2m')
    return value
