"""compare: CNI modes side by side, each measured in a small lab of its own."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kubenetlab.api.config import ClusterConfig
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.mode_options import parse_mode
from kubenetlab.cli.input.options import Files, IpFamily, Output, OutputOption
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import LiveLine, echo, hint, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, HEADING, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.api.json_types import JsonObject
    from kubenetlab.api.manifests.load import LoadedManifests
    from kubenetlab.cli.input.manifests import Manifests
    from kubenetlab.observe.comparison.results import ComparedMode

_CNI_FIELD: Final = "networking.cni"
"""Field of the Cluster document that selects the mode."""
_POLICY: Final = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "kubenetlab-compare"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}
"""Policy that isolates all pods of a namespace."""


def compare(
    cni: Annotated[
        list[str] | None,
        typer.Option(
            "--cni",
            metavar="MODE[,OPTION=VALUE]…[,MODE…]",
            help=(
                "CNI modes, separated by commas; may be repeated. "
                "`flannel-vxlan` is short for `flannel,backend=vxlan`. Default: all modes."
            ),
            autocompletion=candidates("cni_modes"),
        ),
    ] = None,
    ip_family: IpFamily = None,
    files: Files = None,
    output: OutputOption = Output.table,
) -> None:
    """Compare CNI modes by packets, each in a small lab of its own.

    Each lab has two pods on one node and a third one on another node, or the
    pods of your manifests (-f). It is measured for three seconds and removed.
    Columns: number of routers between pods of one node and of two nodes (by
    TTL), bytes that a packet grows on the fabric, with `encrypted` if it
    cannot be read there, MTU of pods, routes and rules of a node, source
    address that another node sees, enforcement of NetworkPolicy, median time
    of a TCP connection, and one TCP stream.
    The exit status is 1 if a mode cannot be measured.

    Example: kubenetlab compare --cni flannel-vxlan,calico-bgp
    """
    from kubenetlab.cli.input.mode_options import split_modes
    from kubenetlab.cli.labs.temporary_lab import exit_on_sigterm
    from kubenetlab.observe.comparison.results import ComparedMode

    modes = list(split_modes(cni)) if cni else _all_modes()
    loaded = _loaded(files)
    labs = [(mode, _prepared(mode, loaded, ip_family)) for mode in modes]
    progress = LiveLine()
    results = []
    with exit_on_sigterm():
        for number, (mode, prepared) in enumerate(labs, 1):
            progress.draw(f"{paint(mode, HEADING)}: measuring ({number} of {len(labs)})")
            results.append(
                prepared if isinstance(prepared, ComparedMode) else _compared(mode, prepared)
            )
    progress.clear()
    if output.is_data:
        from kubenetlab.observe.comparison.results import document

        print_document(document(results), output)
    else:
        show(results, is_wide=output is Output.wide)
    if any(result.error for result in results):
        raise typer.Exit(1)


def _all_modes() -> list[str]:
    """Return the names of all modes that build a network."""
    from kubenetlab.datapath.modes import known, load

    return [name for name in known("cni") if load("cni", name, {}).facts.has_network]


def _loaded(files: Sequence[str] | None) -> LoadedManifests:
    """Return the manifests of all labs: those of the user, or the built-in ones."""
    from kubenetlab.api.manifests.load import load_documents
    from kubenetlab.api.text.documents import Document
    from kubenetlab.cli.input.manifests import load_files
    from kubenetlab.datapath.checks.objects import check_object

    if files:
        return load_files(files, options_follow=True, for_new_lab=True)
    documents = [Document("<built-in lab>", 0, "", document) for document in _documents()]
    return load_documents(documents, check=check_object)


def _prepared(
    mode: str, loaded: LoadedManifests, ip_family: str | None
) -> Manifests | ComparedMode:
    """Return the manifests of the lab for a mode, or why the mode cannot have such a lab.

    Raises ManifestError for an unknown mode or option, before any lab is made.
    """
    from kubenetlab.cli.input.manifests import Flags, merge_options
    from kubenetlab.errors import ManifestError
    from kubenetlab.observe.comparison.results import ComparedMode

    flags = Flags(cni=mode, ip_family=ip_family)
    merge_options(_loaded(None), flags, None, None)  # the mode by itself
    try:
        return merge_options(loaded, flags, None, None)
    except ManifestError as error:
        if any(not problem.path.startswith(_CNI_FIELD) for problem in error.problems):
            raise
        return ComparedMode(mode, error="; ".join(each.message for each in error.problems))


def _documents() -> Iterator[JsonObject]:
    """Yield the documents of the built-in lab: two pods on one node, one on another node."""
    yield {
        "apiVersion": ClusterConfig.api_version,
        "kind": ClusterConfig.kind,
        "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}],
    }
    for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2")):
        container = {"name": "main", "image": "agnhost", "args": ["netexec"]}
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [container]},
        }


def _compared(mode: str, manifests: Manifests) -> ComparedMode:
    """Return the properties of a mode, or the reason why it cannot be measured."""
    from kubenetlab.errors import LabError, RequirementError
    from kubenetlab.lab.requirements import require
    from kubenetlab.observe.comparison.results import ComparedMode

    try:
        require(manifests.cluster_config, manifests.entries)
        return _measured(mode, manifests)
    except (LabError, RequirementError) as error:
        reason = "; ".join(str(error).splitlines()).removesuffix("; see kubenetlab doctor")
        return ComparedMode(mode, error=reason)


def _measured(mode: str, manifests: Manifests) -> ComparedMode:
    """Measure a mode in a lab of its own, which is removed. Raises LabError."""
    from kubenetlab.cli.labs.temporary_lab import run_command, run_inside, temporary_lab
    from kubenetlab.errors import LabError
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.lab.client import Client
    from kubenetlab.lab.paths import LAB_API
    from kubenetlab.observe.comparison.measurement import (
        Measurement,
        is_isolated,
        measure,
        subjects,
    )
    from kubenetlab.observe.comparison.results import ComparedMode, count_programs
    from kubenetlab.observe.targets.locations import places

    name = f"compare-{os.getpid()}-{secrets.token_hex(2)}"
    version = manifests.cluster_config.networking.versions[0]
    with temporary_lab(name, _as_text(entry.value for entry in manifests.all_entries)):
        client = Client(name, on_warning=lambda text: None)
        locations = places(client.inspect())
        ends = subjects(
            [place for place in locations if place.kind == "pod"],
            [place for place in locations if place.kind == "node"],
            version,
        )

        def enter_and_measure() -> Measurement:
            enter_lab(client.open_init())
            return measure(ends)

        def enter_and_connect() -> bool:
            enter_lab(client.open_init())
            return is_isolated(ends)

        measurement = run_inside(enter_and_measure, Measurement)
        listings = client.get(f"{LAB_API}/detail", netns=ends.node.sandbox)["listings"]
        policy = {**_POLICY, "metadata": {"name": name, "namespace": ends.remote.namespace}}
        applied = run_command(["apply", "--lab", name, "-f", "-"], json.dumps(policy))
        if applied.status:
            raise LabError(f"a NetworkPolicy is refused: {applied.reason}")
        return ComparedMode(
            mode,
            ip_version=version,
            measurement=measurement,
            programs=count_programs(listings),
            enforces_policy=run_inside(enter_and_connect, bool),
        )


HEADER: Final = (
    "MODE",
    "HOPS",
    "OVERHEAD",
    "MTU",
    "ROUTES",
    "RULES",
    "NODES SEE",
    "POLICY",
    "CONNECT",
    "GBIT/S",
)
_WIDE: Final = ("PROGRAMS", "PODS SEE")


def show(results: Sequence[ComparedMode], *, is_wide: bool) -> None:
    """Print a row for each mode, and below them why modes could not be measured."""
    header = (*HEADER, *_WIDE) if is_wide else HEADER
    rows = [_row(result)[: len(header)] for result in results]
    print_table(header, rows, numbers=("OVERHEAD", "MTU", "ROUTES", "RULES", "CONNECT", "GBIT/S"))
    missing = [result for result in results if result.error]
    if missing:
        echo()
    for result in missing:
        echo(f"{paint(result.mode, BAD)}: not measured: {result.error}")
    hint(f"kubenetlab explain {parse_mode(results[0].mode)['type']}")


def _row(result: ComparedMode) -> tuple[str, ...]:
    measured = result.measurement
    if measured is None:
        return (paint(result.mode, BAD), *["-"] * (len(HEADER) + len(_WIDE) - 1))
    grown = measured.overhead_bytes
    return (
        paint(result.mode, HEADING),
        f"{measured.hops_same_node} / {measured.hops_other_node}",
        "?" if grown is None else f"{grown} B{' encrypted' if measured.encrypted else ''}",
        str(measured.mtu),
        str(measured.routes),
        str(measured.rules),
        measured.source_at_node,
        paint("yes", GOOD) if result.enforces_policy else paint("no", WARNING),
        f"{measured.connect_ms:.3f} ms",
        f"{measured.gbit_per_s:.1f}",
        str(result.programs),
        measured.source_at_pod,
    )


def _as_text(documents: Iterable[object]) -> str:
    """Return documents as a stream for `-f -`."""
    return "\n---\n".join(json.dumps(document) for document in documents)
