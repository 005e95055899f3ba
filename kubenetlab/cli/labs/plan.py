"""plan: show the changes that `up` would make."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.input.options import (
    Cni,
    DriftOption,
    Files,
    Kustomizations,
    NewLab,
    Nodes,
    Output,
    Paths,
    PlanOutput,
    Proxy,
    RealCommands,
    Strict,
    UplinkOption,
    manifest_files,
)
from kubenetlab.cli.labs.diagnostics import print_diagnostics, raise_findings
from kubenetlab.cli.labs.waiting import name_if_ambiguous
from kubenetlab.cli.terminal.printing import hint, print_data
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.cli.input.manifests import Manifests


def plan(
    paths: Paths = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    lab: NewLab = None,
    cni: Cni = None,
    proxy: Proxy = None,
    nodes: Nodes = None,
    real_commands: RealCommands = False,
    drift: DriftOption = None,
    uplink: UplinkOption = None,
    strict: Strict = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Every setting on a line of its own.")
    ] = False,
    output: Annotated[
        PlanOutput, typer.Option("-o", "--output", help="How to print it; `sh` is a shell script.")
    ] = PlanOutput.table,
) -> None:
    """Show what `up` would do to the kernel, object by object, without doing it. Example: kubenetlab plan -f web.yaml

    For a lab that is up it shows the difference. Nothing is changed, and no privilege is needed for a new lab.

    With -o sh it is a whole lab by hand: a script of ip, nft and sysctl, to be read, and to be run as root. A new lab has all its
    pods ready in it, one that is up is as it would stand with the manifests. Example: kubenetlab plan -o sh > lab.sh
    """
    from kubenetlab.cli.input import manifest_warnings, manifests
    from kubenetlab.cli.labs.plan_output import show_changes
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    files = manifest_files(paths, files, kustomizations)
    name, given = manifests.load_for_lab(
        lab, files, manifests.Flags(cni, proxy, nodes, real_commands, drift, uplink), strict=strict
    )
    manifest_warnings.warn(given)
    is_script = output is PlanOutput.sh
    answer: dict[str, Any] = {}
    if rundir.is_alive(name):
        documents = [entry.value for entry in given.all_entries]
        answer = Client(name).post(f"{LAB_API}/plan", {"documents": documents, "script": is_script})
        raise_findings(answer, given)
    if is_script:
        typer.echo(answer["script"] if answer else new_lab_script(given, name), nl=False)
        return
    planned, found = (answer["changes"], answer["diagnostics"]) if answer else new_lab_plan(given)
    print_diagnostics(found, given.all_entries)
    changes = [*uplink_plan(name, given), *planned]
    if Output(output).is_data:
        print_data(changes, output)
        return
    show_changes(changes, is_wide=wide or output is PlanOutput.wide)
    if changes:
        hint(
            f"kubenetlab up{''.join(f' -f {file}' for file in files or ())}", lab
        )  # whatever labs are up: it names the one to be made
    else:
        hint("kubenetlab ping", name_if_ambiguous(name))


def new_lab_plan(given: Manifests) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what making a lab would do, and what its objects lack (kubenetlab/diagnostics)."""
    from kubenetlab.datapath import plan
    from kubenetlab.hoststate.diff import diff
    from kubenetlab.hoststate.state import HostState
    from kubenetlab.lab.apiserver.diagnostics import diagnostics
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.machine import decisions

    cluster, _ = bootstrap_store(given.config, given.entries, time.time())
    changes = diff(HostState(), plan(cluster, decisions(cluster)))
    rendered = [
        {"netns": entry.netns, "operations": [str(operation) for operation in entry.details()]}
        for entry in changes.namespaces
    ]
    return rendered, diagnostics(cluster)


def uplink_plan(name: str, given: Manifests) -> list[dict[str, Any]]:
    """What the command itself would do on this machine: link the lab to its network, or no more."""
    from kubenetlab import names
    from kubenetlab.lab import rundir

    has = rundir.is_alive(name) and (rundir.of(name) / rundir.UPLINK).exists()
    if given.config is None or given.cluster_config.uplink == has:
        return []
    mark = "-" if has else "+"
    made = [
        f"link {names.machine_link(name)}, to the lab's router",
        *(f"nft table {family} kubenetlab-{name}" for family in ("ip", "ip6")),
    ]
    return [
        {
            "netns": "this machine",
            "operations": [
                *(f"{mark} {one}" for one in made),
                f"{mark} forwarding, on links that do not",
            ],
        }
    ]


def new_lab_script(given: Manifests, name: str) -> str:
    """A new lab by hand, as it is once all its pods are ready."""
    from kubenetlab.datapath import plan
    from kubenetlab.hoststate.script import script
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.machine import decisions
    from kubenetlab.lab.simulation import rehearse

    now = time.time()
    cluster = rehearse(bootstrap_store(given.config, given.entries, now, name)[0], now)
    return script(plan(cluster, decisions(cluster)), name)
