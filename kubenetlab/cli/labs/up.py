"""up and apply: make a lab from manifests, or change a running one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from kubenetlab.cli.input.options import (
    Cni,
    DriftOption,
    Files,
    Kustomizations,
    Lab,
    NewLab,
    Nodes,
    Paths,
    Proxy,
    RealCommands,
    Strict,
    Timeout,
    UplinkOption,
    manifest_files,
    parse_duration_s,
)
from kubenetlab.cli.labs.diagnostics import (
    AllowUndeclared,
    print_diagnostics,
    raise_findings,
    raise_misconfigurations,
)
from kubenetlab.cli.labs.waiting import name_if_ambiguous, wait
from kubenetlab.cli.terminal.printing import DIM, GOOD, WARNING, echo, hint, note, paint
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.cli.input.manifests import Manifests
    from kubenetlab.lab.client import Client


def up(
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
    timeout: Timeout = "60s",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the pods.")] = False,
    strict: Strict = False,
    allow_undeclared: AllowUndeclared = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what was built when something fails.")
    ] = False,
) -> None:
    """Make a lab from manifests and wait until its pods are ready; on a lab that is up, apply the difference.

    Without -f it is the built-in quickstart. Example: kubenetlab up -f shop.yaml --nodes 4
    """
    begun = time.monotonic()
    from kubenetlab.cli.input import manifest_warnings, manifests
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    timeout_s = parse_duration_s(timeout)
    files = manifest_files(paths, files, kustomizations)
    name, given = manifests.load_for_lab(
        lab, files, manifests.Flags(cni, proxy, nodes, real_commands, drift, uplink), strict=strict
    )
    manifest_warnings.warn(given)
    strictness = Strictness(strict, allow_undeclared)
    if not (rundir.is_alive(name) and _applied(name, given, strictness)):
        _create(name, given, keep, strictness)
    _link_up(name, given)
    entries = given.all_entries
    if no_wait:
        print_diagnostics(Client(name).diagnostics(), entries, allow_undeclared=allow_undeclared)
        hint("kubenetlab get pods -A", name_if_ambiguous(name))
        return
    wait(
        name,
        timeout_s,
        begun,
        lambda found: print_diagnostics(found, entries, allow_undeclared=allow_undeclared),
    )


def apply(
    paths: Paths = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    lab: Lab = None,
    strict: Strict = False,
    allow_undeclared: AllowUndeclared = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the pods.")] = False,
    timeout: Timeout = "60s",
) -> None:
    """Apply manifests to a lab that is up. Example: kubenetlab apply -f web.yaml"""
    from kubenetlab.cli.input import manifest_warnings, manifests
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import choose

    files = manifest_files(paths, files, kustomizations)
    if not files:
        raise UsageError("nothing to apply; name manifests with -f FILE")
    begun = time.monotonic()
    timeout_s = parse_duration_s(timeout)
    client = choose(lab)
    given = manifests.read(files, strict=strict, lab=lab)
    manifest_warnings.warn(given)
    _apply(client, given, Strictness(strict, allow_undeclared))
    _link_up(client.lab, given)
    entries = given.all_entries
    if no_wait:
        print_diagnostics(client.diagnostics(), entries, allow_undeclared=allow_undeclared)
        hint("kubenetlab get pods -A", name_if_ambiguous(client.lab))
        return
    wait(
        client.lab,
        timeout_s,
        begun,
        lambda found: print_diagnostics(found, entries, allow_undeclared=allow_undeclared),
    )


class Strictness(NamedTuple):
    """Whether a misconfiguration is an error, and which ones are accepted."""

    is_strict: bool
    allow_undeclared: bool

    @property
    def refused_codes(self) -> list[str]:
        """Codes of the misconfigurations that are errors; none unless it is strict."""
        from kubenetlab.diagnostics import refused_codes

        return refused_codes(allow_undeclared=self.allow_undeclared) if self.is_strict else []


def _create(name: str, given: Manifests, keep: bool, strictness: Strictness) -> None:
    """A new lab: plan here, then let it be built."""
    import gc

    gc.disable()  # nothing of what is made here is thrown away before the end
    from kubenetlab.cli.labs.progress import Progress
    from kubenetlab.datapath.sandboxes import loopback_and_sysctls
    from kubenetlab.kernel.namespaces.netns_pool import ahead
    from kubenetlab.lab import up as making
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.requirements import require

    config = given.cluster_config
    require(config)
    blank_namespaces = ahead(
        given.count_of_pods,
        tuple(loopback_and_sysctls("", has_ipv6=6 in config.networking.versions)),
    )
    cluster, admission = bootstrap_store(given.config, given.entries, time.time(), name)
    if codes := strictness.refused_codes:
        from kubenetlab.lab.apiserver.diagnostics import diagnostics

        raise_misconfigurations(
            [item for item in diagnostics(cluster) if item["code"] in codes], given.all_entries
        )
    _say_namespaces(admission.made_namespaces)
    progress = Progress(name, len(config.nodes))
    try:
        built = making.create(
            name,
            cluster,
            nodes=len(config.nodes),
            keep_failed=keep,
            on_progress=progress.tell,
            blank_namespaces=blank_namespaces,
        )
    except making.Interrupted:
        progress.stop()
        note(f"stopped; nothing of lab {name} is left")
        os._exit(making.STOPPED_BY_SIGINT)
    progress.built(built)


def _applied(name: str, given: Manifests, strictness: Strictness) -> bool:
    """Apply to a lab that is up; return False where it has ended meanwhile, as one whose `up` was killed does a moment later."""
    from kubenetlab.errors import LabError
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    try:
        _apply(Client(name), given, strictness)
    except LabError:
        if rundir.is_alive(name):
            raise
        return False
    return True


def _apply(client: Client, given: Manifests, strictness: Strictness) -> None:
    answer = client.post(f"{LAB_API}/apply", _documents(given, strictness))
    raise_findings(answer, given)
    raise_misconfigurations(answer.get("diagnostics", []), given.all_entries)
    _say_namespaces(answer["namespaces"])
    colours = {"created": GOOD, "configured": WARNING, "kept": DIM, "unchanged": DIM}
    for outcome in answer["outcomes"]:
        changes = f": {', '.join(outcome['changes'])}" if outcome["changes"] else ""
        echo(f"{outcome['title']} {paint(outcome['action'], colours[outcome['action']])}{changes}")


def _documents(given: Manifests, strictness: Strictness) -> dict[str, Any]:
    """Return what the API takes: the documents, where each stands, and the misconfigurations that must not be applied."""
    import msgspec

    entries = given.all_entries
    return {
        "documents": [entry.value for entry in entries],
        "sources": [msgspec.to_builtins(entry.source) for entry in entries],
        "refuse": strictness.refused_codes,
    }


def _link_up(name: str, given: Manifests) -> None:
    """Links the lab to the machine's network, or no more, where the command says a word of the Cluster document."""
    from kubenetlab.lab import rundir

    if given.config is None:
        return
    if given.cluster_config.uplink:
        from kubenetlab.lab import uplink
        from kubenetlab.lab.client import Client

        record = uplink.bring(Client(name), given.cluster_config)
        echo(
            f"{paint('✓', GOOD)} uplink: this machine's link {record.link} leads to the lab's router, {', '.join(record.router)}"
        )
        for chain in uplink.in_the_way():
            words = f"iptables -I FORWARD -i {record.link} -j ACCEPT; iptables -I FORWARD -o {record.link} -j ACCEPT"
            note(
                f"{paint('note:', WARNING)} {chain} of this machine drops what it forwards unless it is told otherwise: {words}"
            )
    elif (rundir.of(name) / rundir.UPLINK).exists():
        from kubenetlab.lab import uplink
        from kubenetlab.lab.client import Client

        uplink.remove(Client(name))
        echo("no uplink any more: the lab is by itself again")


def _say_namespaces(made: Any) -> None:
    if made:
        note(
            f"{paint('warning:', WARNING)} made {'namespaces' if len(made) > 1 else 'namespace'} {', '.join(made)}, which no manifest makes"
        )
