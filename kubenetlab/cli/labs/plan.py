"""plan: show the changes that `up` would make, without making them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.api.json_types import JsonObject
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
    Policy,
    Proxy,
    RealCommands,
    Strict,
    UplinkOption,
    manifest_files,
)
from kubenetlab.cli.labs.admission import report_reply, warn_of_bootstrap
from kubenetlab.cli.labs.diagnostics import print_diagnostics
from kubenetlab.cli.labs.waiting import name_if_ambiguous
from kubenetlab.cli.terminal.printing import hint, print_data
from kubenetlab.errors import UsageError
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
    policy: Policy = None,
    nodes: Nodes = None,
    real_commands: RealCommands = False,
    drift: DriftOption = None,
    uplink: UplinkOption = None,
    strict: Strict = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Print each setting on a line of its own.")
    ] = False,
    output: Annotated[
        PlanOutput, typer.Option("-o", "--output", help="Output format; `sh`: a shell script.")
    ] = PlanOutput.table,
) -> None:
    """Show the kernel objects that `up` would create, change or remove.

    Nothing is changed. For a lab that is up, only the differences are shown.
    A plan of a new lab needs no privileges.

    With -o sh, print a script of ip, nft and sysctl commands that builds the
    whole lab. Read it, or run it as root. In a new lab, all pods are ready;
    a running lab is printed in the state that the manifests would give it.

    Examples:
    kubenetlab plan -f web.yaml
    kubenetlab plan -o sh > lab.sh
    """
    from kubenetlab.cli.input.manifest_warnings import warn
    from kubenetlab.cli.input.manifests import Flags, load_for_lab
    from kubenetlab.cli.labs.plan_output import show_changes
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    files = manifest_files(paths, files, kustomizations)
    name, manifests = load_for_lab(
        lab,
        files,
        Flags(cni, proxy, nodes, real_commands, drift, uplink, policy=policy),
        strict=strict,
    )
    warn(manifests)
    is_script = output is PlanOutput.sh
    reply: JsonObject = {}
    if rundir.is_alive(name):
        documents = [entry.value for entry in manifests.all_entries]
        reply = Client(name).post(f"{LAB_API}/plan", {"documents": documents, "script": is_script})
        report_reply(reply, manifests)
    if is_script:
        typer.echo(reply["script"] if reply else new_lab_script(manifests, name), nl=False)
        return
    planned, items = (reply["changes"], reply["diagnostics"]) if reply else new_lab_plan(manifests)
    can_work = print_diagnostics(items, manifests.all_entries)
    changes = [*uplink_plan(name, manifests), *planned]
    if Output(output).is_data:
        print_data(changes, output)
    else:
        show_changes(changes, is_wide=wide or output is PlanOutput.wide)
        if changes:
            # Whatever labs are up: it names the one to be made.
            hint(
                _up_command(
                    files or (),
                    {"--cni": cni, "--proxy": proxy, "--policy": policy, "--nodes": nodes},
                ),
                lab,
            )
        else:
            hint("kubenetlab ping", name_if_ambiguous(name))
    if not can_work:
        raise typer.Exit(1)


def new_lab_plan(manifests: Manifests) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return the operations that make a new lab, per namespace, and the lab's diagnostics."""
    from kubenetlab.datapath import plan
    from kubenetlab.hoststate.diff import diff
    from kubenetlab.hoststate.state import HostState
    from kubenetlab.lab.apiserver.diagnostics import diagnostics
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.machine import decisions

    bootstrap = bootstrap_store(manifests.config, manifests.entries, time.time())
    warn_of_bootstrap(bootstrap, manifests)
    cluster = bootstrap.cluster
    changes = diff(HostState(), plan(cluster, decisions(cluster)))
    rendered = [
        {"netns": entry.netns, "operations": [str(operation) for operation in entry.details()]}
        for entry in changes.namespaces
    ]
    return rendered, diagnostics(cluster)


def uplink_plan(name: str, manifests: Manifests) -> list[JsonObject]:
    """Return the operations on this machine itself: those that create or remove the uplink."""
    from kubenetlab import names
    from kubenetlab.lab import rundir

    has_uplink = rundir.is_alive(name) and (rundir.run_directory(name) / rundir.UPLINK).exists()
    if manifests.config is None or manifests.cluster_config.uplink == has_uplink:
        return []
    mark = "-" if has_uplink else "+"
    objects = [
        f"link {names.machine_link(name)}, to the lab's router",
        *(f"nft table {family} kubenetlab-{name}" for family in ("ip", "ip6")),
    ]
    return [
        {
            "netns": "this machine",
            "operations": [
                *(f"{mark} {obj}" for obj in objects),
                f"{mark} forwarding, on links where it is off",
            ],
        }
    ]


def new_lab_script(manifests: Manifests, name: str) -> str:
    """Return a shell script that builds a new lab as it is once all its pods are ready."""
    from kubenetlab.controllers.nodes.ipam import network
    from kubenetlab.datapath import plan
    from kubenetlab.hoststate.script import script
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.machine import decisions
    from kubenetlab.lab.simulation import simulate

    now = time.time()
    bootstrap = bootstrap_store(manifests.config, manifests.entries, now, name)
    warn_of_bootstrap(bootstrap, manifests)
    first = bootstrap.cluster
    if network(first).ipam == "external":
        plugin = network(first).plugin
        raise UsageError(
            f"plan -o sh: programs attach the pods with cni {plugin}, which a script of ip and nft"
            " cannot do; use plan without -o sh"
        )
    cluster = simulate(first, now)
    return script(plan(cluster, decisions(cluster)), name)


def _up_command(files: Sequence[str], options: Mapping[str, object]) -> str:
    """Return the command that does what was planned.

    options: options that select another network, with their values; None: not given.
    """
    words = [word for file in files for word in ("-f", file)]
    for option, value in options.items():
        words += [option, str(value)] if value is not None else []
    return shlex.join(["kubenetlab", "up", *words])
