"""up, apply, delete, down, plan: a lab's life."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import (
    Cni,
    DriftOption,
    Files,
    Kustomizations,
    Lab,
    MadeLab,
    Namespace,
    Nodes,
    Output,
    Paths,
    PlanOutput,
    Proxy,
    RealCommands,
    SelectorOption,
    Strict,
    Timeout,
    UplinkOption,
    manifest_files,
    seconds,
)
from kubenetlab.cli.labs.diagnostics import AllowUndeclared, refuse, report
from kubenetlab.cli.labs.waiting import needed, wait
from kubenetlab.cli.terminal.screen import DIM, GOOD, MILD, data, hint, note, paint, say
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.cli.input.manifests import Manifests
    from kubenetlab.lab.client import Client


def up(
    paths: Paths = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    lab: MadeLab = None,
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
    from kubenetlab.cli.input import manifests
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    timeout_s = seconds(timeout)
    files = manifest_files(paths, files, kustomizations)
    name, given = manifests.for_lab(
        lab, files, manifests.Flags(cni, proxy, nodes, real_commands, drift, uplink), strict=strict
    )
    manifests.warn(given)
    strictness = Strictness(strict, allow_undeclared)
    if not (rundir.is_alive(name) and _applied(name, given, strictness)):
        _create(name, given, keep, strictness)
    _link_up(name, given)
    entries = given.all_entries
    if no_wait:
        report(Client(name).diagnostics(), entries, allow_undeclared=allow_undeclared)
        hint("kubenetlab get pods -A", needed(name))
        return
    wait(
        name,
        timeout_s,
        begun,
        lambda found: report(found, entries, allow_undeclared=allow_undeclared),
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
    from kubenetlab.cli.input import manifests
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import choose

    files = manifest_files(paths, files, kustomizations)
    if not files:
        raise UsageError("nothing to apply; name manifests with -f FILE")
    begun = time.monotonic()
    timeout_s = seconds(timeout)
    client = choose(lab)
    given = manifests.read(files, strict=strict, lab=lab)
    manifests.warn(given)
    _apply(client, given, Strictness(strict, allow_undeclared))
    _link_up(client.lab, given)
    entries = given.all_entries
    if no_wait:
        report(client.diagnostics(), entries, allow_undeclared=allow_undeclared)
        hint("kubenetlab get pods -A", needed(client.lab))
        return
    wait(
        client.lab,
        timeout_s,
        begun,
        lambda found: report(found, entries, allow_undeclared=allow_undeclared),
    )


def delete(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND NAME… | KIND/NAME… | KIND -l …]",
            show_default=False,
            autocompletion=candidates("objects"),
        ),
    ] = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    namespace: Namespace = None,
    selector: SelectorOption = "",
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="Objects that are not there are no error.")
    ] = False,
    lab: Lab = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until the objects are gone.")
    ] = False,
) -> None:
    """Delete objects, by name, by labels or as they stand in manifests. Example: kubenetlab delete pod web-0"""
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.objects import deletion
    from kubenetlab.lab.client import choose

    if (
        what
        and not files
        and find_kind(what[0]) is None
        and all(word == "-" or os.path.isfile(word) for word in what)
    ):
        what, files = None, what  # delete web.yaml
    files = manifest_files(None, files, kustomizations)
    client = choose(lab)
    deletion.delete(
        client,
        what or [],
        files,
        namespace,
        selector=selector,
        ignore_not_found=ignore_not_found,
        wait=not no_wait,
    )
    hint("kubenetlab get pods -A")


def down(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LAB…]",
            help="Which labs.",
            show_default=False,
            autocompletion=candidates("labs"),
        ),
    ] = None,
    lab: Lab = None,
    every: Annotated[bool, typer.Option("--all", help="All labs of this user.")] = False,
) -> None:
    """Free everything a lab has made, also after a crash. Example: kubenetlab down"""
    from kubenetlab.errors import LabError, UsageError, did_you_mean
    from kubenetlab.lab import cleanup, client, rundir

    there = rundir.names()
    for name in names or ():  # one that --lab names may have left traces alone
        if name not in there:
            raise UsageError(
                f"there is no lab {name}{did_you_mean(name, there)}; there are: {', '.join(there) or 'none'}"
            )
    labs = (
        there
        if every
        else list(dict.fromkeys([*(names or ()), *([lab] if lab is not None else ())])) or there
    )
    if lab is None and not names and not every and len(labs) > 1:
        raise LabError(
            f"several labs are there: {', '.join(labs)}; say which: kubenetlab down {labs[0]}, or --all"
        )
    failed: list[LabError] = []
    for name in labs:
        try:
            was_alive = client.Client(name).kill()
            while not cleanup.sweep(name):  # an `up` has just finished
                was_alive |= client.Client(name).kill()
        except LabError as error:  # the others go all the same
            failed.append(error)
            continue
        say(f"lab {name} is down" if was_alive else f"lab {name} is not up: nothing to take down")
    if failed:
        raise LabError("\n".join(map(str, failed)))
    if not labs:
        say("no lab is up")
    hint("kubenetlab up" if not client.running() else "kubenetlab list")


def plan(
    paths: Paths = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    lab: MadeLab = None,
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
    from kubenetlab.cli.input import manifests
    from kubenetlab.cli.labs.plans import new_lab_plan, new_lab_script, show_changes, uplink_plan
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    files = manifest_files(paths, files, kustomizations)
    name, given = manifests.for_lab(
        lab, files, manifests.Flags(cni, proxy, nodes, real_commands, drift, uplink), strict=strict
    )
    manifests.warn(given)
    is_script = output is PlanOutput.sh
    answer: dict[str, Any] = {}
    if rundir.is_alive(name):
        documents = [entry.value for entry in given.all_entries]
        answer = Client(name).post(f"{LAB_API}/plan", {"documents": documents, "script": is_script})
        _refuse(answer, given)
    if is_script:
        typer.echo(answer["script"] if answer else new_lab_script(given, name), nl=False)
        return
    planned, found = (answer["changes"], answer["diagnostics"]) if answer else new_lab_plan(given)
    report(found, given.all_entries)
    changes = [*uplink_plan(name, given), *planned]
    if Output(output).is_data:
        data(changes, output)
        return
    show_changes(changes, is_wide=wide or output is PlanOutput.wide)
    if changes:
        hint(
            f"kubenetlab up{''.join(f' -f {file}' for file in files or ())}", lab
        )  # whatever labs are up: it names the one to be made
    else:
        hint("kubenetlab ping", needed(name))


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

        refuse([item for item in diagnostics(cluster) if item["code"] in codes], given.all_entries)
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
    _refuse(answer, given)
    refuse(answer.get("diagnostics", []), given.all_entries)
    _say_namespaces(answer["namespaces"])
    colours = {"created": GOOD, "configured": MILD, "kept": DIM, "unchanged": DIM}
    for outcome in answer["outcomes"]:
        changes = f": {', '.join(outcome['changes'])}" if outcome["changes"] else ""
        say(f"{outcome['title']} {paint(outcome['action'], colours[outcome['action']])}{changes}")


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
        say(
            f"{paint('✓', GOOD)} uplink: this machine's link {record.link} leads to the lab's router, {', '.join(record.router)}"
        )
        for chain in uplink.in_the_way():
            words = f"iptables -I FORWARD -i {record.link} -j ACCEPT; iptables -I FORWARD -o {record.link} -j ACCEPT"
            note(
                f"{paint('note:', MILD)} {chain} of this machine drops what it forwards unless it is told otherwise: {words}"
            )
    elif (rundir.of(name) / rundir.UPLINK).exists():
        from kubenetlab.lab import uplink
        from kubenetlab.lab.client import Client

        uplink.remove(Client(name))
        say("no uplink any more: the lab is by itself again")


def _refuse(answer: dict[str, Any], given: Manifests) -> None:
    """Raises ManifestError for what the lab found in our documents: it knows the field, we know file and line."""
    from kubenetlab.api.decode import Finding
    from kubenetlab.errors import ManifestError

    entries = given.all_entries
    findings = [
        (
            item["document"],
            Finding(tuple(item["path"]), item["message"], hints=tuple(item["hints"])),
        )
        for item in answer["findings"]
    ]
    if findings:
        raise ManifestError(entries[index].problem(finding) for index, finding in findings)


def _say_namespaces(made: Any) -> None:
    if made:
        note(
            f"{paint('warning:', MILD)} made {'namespaces' if len(made) > 1 else 'namespace'} {', '.join(made)}, which no manifest makes"
        )
