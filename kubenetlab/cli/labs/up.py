"""up and apply: make a lab from manifests, or change a running one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.options import (
    Cni,
    DriftOption,
    Files,
    Kustomizations,
    Lab,
    NewLab,
    Nodes,
    NoWait,
    Paths,
    Policy,
    Proxy,
    RealCommands,
    Strict,
    Timeout,
    UplinkOption,
    manifest_files,
    parse_duration_s,
)
from kubenetlab.cli.labs.admission import raise_errors, report_reply, warn_of_bootstrap
from kubenetlab.cli.labs.diagnostics import (
    AllowUndeclared,
    abbreviate,
    print_diagnostics,
    raise_misconfigurations,
)
from kubenetlab.cli.labs.waiting import name_if_ambiguous, wait
from kubenetlab.cli.terminal.printing import echo, hint, note
from kubenetlab.cli.terminal.theme import GOOD, MUTED, WARNING, paint
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenetlab.cli.input.manifests import Manifests
    from kubenetlab.lab.client import Client


def up(
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
    timeout: Timeout = "60s",
    no_wait: NoWait = False,
    strict: Strict = False,
    allow_undeclared: AllowUndeclared = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the unfinished lab if building it fails.")
    ] = False,
) -> None:
    """Make a lab from manifests and wait until its pods are ready.

    If the lab is already up, update it: create and change what differs.
    Without manifests, make the built-in lab `quickstart`.

    Example: kubenetlab up -f shop.yaml --nodes 4
    """
    started = time.monotonic()
    from kubenetlab.cli.input.manifest_warnings import warn
    from kubenetlab.cli.input.manifests import Flags, load_for_lab
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    timeout_s = parse_duration_s(timeout)
    files = manifest_files(paths, files, kustomizations)
    name, manifests = load_for_lab(
        lab,
        files,
        Flags(cni, proxy, nodes, real_commands, drift, uplink, policy=policy),
        strict=strict,
    )
    warn(manifests)
    strictness = Strictness(strict, allow_undeclared)
    is_complete = bool(files) and _describes_more_than_policies(manifests)
    if not (rundir.is_alive(name) and _applied(name, manifests, strictness, is_complete)):
        _create(name, manifests, keep, strictness)
    _link_up(name, manifests)
    entries = manifests.all_entries
    if no_wait:
        items = Client(name).diagnostics()
        can_work = print_diagnostics(items, entries, allow_undeclared=allow_undeclared)
        hint("kubenetlab get pods -A", name_if_ambiguous(name))
        raise typer.Exit(0 if can_work else 1)
    wait(
        name,
        timeout_s,
        started,
        lambda items: print_diagnostics(items, entries, allow_undeclared=allow_undeclared),
    )


def apply(
    paths: Paths = None,
    files: Files = None,
    kustomizations: Kustomizations = None,
    lab: Lab = None,
    strict: Strict = False,
    allow_undeclared: AllowUndeclared = False,
    no_wait: NoWait = False,
    timeout: Timeout = "60s",
) -> None:
    """Apply manifests to a running lab and wait until its pods are ready.

    Example: kubenetlab apply -f web.yaml
    """
    from kubenetlab.cli.input.manifest_warnings import warn
    from kubenetlab.cli.input.manifests import read
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab

    files = manifest_files(paths, files, kustomizations)
    if not files:
        raise UsageError("nothing to apply: name manifests with -f FILE")
    started = time.monotonic()
    timeout_s = parse_duration_s(timeout)
    client = select_lab(lab)
    manifests = read(files, strict=strict, lab=lab)
    warn(manifests)
    _apply(client, manifests, Strictness(strict, allow_undeclared))
    _link_up(client.lab, manifests)
    entries = manifests.all_entries
    if no_wait:
        items = client.diagnostics()
        can_work = print_diagnostics(items, entries, allow_undeclared=allow_undeclared)
        hint("kubenetlab get pods -A", name_if_ambiguous(client.lab))
        raise typer.Exit(0 if can_work else 1)
    wait(
        client.lab,
        timeout_s,
        started,
        lambda items: print_diagnostics(items, entries, allow_undeclared=allow_undeclared),
    )


class Strictness(NamedTuple):
    """Treatment of misconfigurations: an error or a warning."""

    is_strict: bool
    allow_undeclared: bool
    """True if a Service may have a numeric target port that no container serves."""

    @property
    def refused_codes(self) -> list[str]:
        """Codes of the diagnostics that are errors; empty unless `is_strict`."""
        from kubenetlab.diagnostics import refused_codes

        return refused_codes(allow_undeclared=self.allow_undeclared) if self.is_strict else []


def _create(name: str, manifests: Manifests, keep: bool, strictness: Strictness) -> None:
    """Plan a new lab in this process, then start its agent, which builds it.

    Raises ManifestError for misconfigurations that `strictness` makes errors.
    """
    import gc

    # Almost everything allocated from here on lives until the process exits.
    gc.disable()
    from kubenetlab.cli.labs.progress import Progress
    from kubenetlab.datapath.sandboxes import loopback_and_sysctls
    from kubenetlab.kernel.namespaces.netns_pool import preallocate
    from kubenetlab.lab import up as creation
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.requirements import require

    config = manifests.cluster_config
    require(config, manifests.entries)
    blank_namespaces = preallocate(
        manifests.count_of_pods,
        tuple(loopback_and_sysctls("", has_ipv6=6 in config.networking.versions)),
    )
    bootstrap = bootstrap_store(manifests.config, manifests.entries, time.time(), name)
    if codes := strictness.refused_codes:
        from kubenetlab.lab.apiserver.diagnostics import diagnostics

        raise_misconfigurations(
            [item for item in diagnostics(bootstrap.cluster) if item["code"] in codes],
            manifests.all_entries,
        )
    warn_of_bootstrap(bootstrap, manifests)
    _warn_of_made_namespaces(bootstrap.admission.made_namespaces)
    progress = Progress(name, len(config.nodes))
    try:
        built = creation.create(
            name,
            bootstrap,
            nodes=len(config.nodes),
            keep_failed=keep,
            on_progress=progress.update,
            blank_namespaces=blank_namespaces,
        )
    except creation.Interrupted:
        progress.stop()
        note(f"interrupted: lab {name} was removed")
        os._exit(creation.STOPPED_BY_SIGINT)
    progress.built(built)


_SHOWN_PODS = 20
"""Maximum number of pods that are named when they get new sandboxes."""


def _describes_more_than_policies(manifests: Manifests) -> bool:
    """Return True for manifests of a lab as a whole, and not for a few policies, or its modes."""
    from kubenetlab.api.kinds import POLICY_KINDS

    return any(not isinstance(entry.object, POLICY_KINDS) for entry in manifests.entries)


def _applied(name: str, manifests: Manifests, strictness: Strictness, is_complete: bool) -> bool:
    """Apply manifests to a running lab; return False if the lab ended meanwhile.

    is_complete: the manifests describe the lab as a whole: name the policies that they lack.

    A lab whose `up` was killed ends a moment later.
    """
    from kubenetlab.errors import LabError
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import Client

    try:
        _apply(Client(name), manifests, strictness, is_complete=is_complete)
    except LabError:
        if rundir.is_alive(name):
            raise
        return False
    return True


def _apply(
    client: Client, manifests: Manifests, strictness: Strictness, *, is_complete: bool = False
) -> None:
    announcement = _describe_cni_change(client, manifests) if manifests.config is not None else ""
    documents = {**_documents(manifests, strictness), "is_complete": is_complete}
    if announcement:  # before anything changes, but not for a mode that the lab refuses
        _post(client, manifests, {**documents, "dry_run": True})
        echo(announcement)
    answer = _post(client, manifests, documents)
    report_reply(answer, manifests)
    _warn_of_made_namespaces(answer["namespaces"])
    colours = {"created": GOOD, "configured": WARNING, "kept": MUTED, "unchanged": MUTED}
    for outcome in answer["outcomes"]:
        changes = f": {', '.join(outcome['changes'])}" if outcome["changes"] else ""
        echo(f"{outcome['title']} {paint(outcome['action'], colours[outcome['action']])}{changes}")
    for reason in answer.get("notes", ()):
        note(f"{paint('note:', WARNING)} {reason}")
    if remaining := answer.get("remaining", ()):
        note(f"{paint('note:', WARNING)} {_describe_remaining(remaining, client.lab)}")


def _describe_remaining(policies: Sequence[JsonObject], lab: str) -> str:
    """Return the policies of a lab that its manifests lack, and the command that deletes one."""
    first = policies[0]
    command = f"kubenetlab delete {first['kind'].lower()} {first['name']}"
    command += f" -n {first['namespace']}" if first["namespace"] else ""
    command += f" --lab {lab}" if name_if_ambiguous(lab) else ""
    titles = abbreviate([policy["title"] for policy in policies])
    which = "it" if len(policies) == 1 else "the first"
    return f"in the lab, but not in these manifests: {titles}; to delete {which}: {command}"


def _post(client: Client, manifests: Manifests, documents: JsonObject) -> JsonObject:
    """Return the reply to `apply`.

    Raises ManifestError or RequirementError for documents that the lab refuses.
    """
    answer: JsonObject = client.post(f"{LAB_API}/apply", documents)
    raise_errors(answer, manifests)
    raise_misconfigurations(answer.get("diagnostics", []), manifests.all_entries)
    return answer


def _describe_cni_change(client: Client, manifests: Manifests) -> str:
    """Return which pods are affected if the CNI mode of a running lab changes, else nothing.

    Nodes restart if programs have attached their pods: only they know what they have left there.
    """
    from kubenetlab.api.config import ClusterConfig, mode_and_options
    from kubenetlab.datapath.modes import load

    wanted = manifests.cluster_config.networking.cni_mode
    (item,) = client.get(f"/apis/{ClusterConfig.api_version}/{ClusterConfig.plural}")["items"]
    current = mode_and_options(item.get("networking", {}).get("cni", "bridge"))
    if wanted == current or current[0] == "none" or wanted[0] == "none":
        return ""
    pods = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in client.get("/api/v1/pods")["items"]
        if not pod["spec"].get("hostNetwork") and pod["status"].get("podIP")
    ]
    change = f"cni {current[0]} → {wanted[0]}" if current[0] != wanted[0] else f"cni {wanted[0]}"
    has_programs = load("cni", *current).facts.ipam == "external"
    restarts = ", nodes restart" if has_programs and current[0] != wanted[0] else ""
    more = f" and {len(pods) - _SHOWN_PODS} more" if len(pods) > _SHOWN_PODS else ""
    names = f": {', '.join(pods[:_SHOWN_PODS])}{more}" if pods else ""
    return f"{change}: {len(pods)} pods get new sandboxes{restarts}{names}"


def _documents(manifests: Manifests, strictness: Strictness) -> JsonObject:
    """Return the request body of `apply`.

    It holds the documents, their sources (file and line) and the codes of the diagnostics
    for which the lab refuses them.
    """
    import msgspec

    entries = manifests.all_entries
    return {
        "documents": [entry.value for entry in entries],
        "sources": [msgspec.to_builtins(entry.source) for entry in entries],
        "refuse": strictness.refused_codes,
    }


def _link_up(name: str, manifests: Manifests) -> None:
    """Create or remove the uplink, as the Cluster document asks; without one change nothing."""
    from kubenetlab.lab import rundir

    if manifests.config is None:
        return
    if manifests.cluster_config.uplink:
        from kubenetlab.lab import uplink
        from kubenetlab.lab.client import Client

        record = uplink.create(Client(name), manifests.cluster_config)
        echo(
            f"{paint('✓', GOOD)} uplink: this machine's link {record.link} leads to the lab's "
            f"router, {', '.join(record.router)}"
        )
        for chain in uplink.dropping_chains():
            commands = "; ".join(
                f"iptables -I FORWARD {option} {record.link} -j ACCEPT" for option in ("-i", "-o")
            )
            note(
                f"{paint('note:', WARNING)} {chain} of this machine drops forwarded packets; "
                f"to let the lab's pass: {commands}"
            )
    elif (rundir.run_directory(name) / rundir.UPLINK).exists():
        from kubenetlab.lab import uplink
        from kubenetlab.lab.client import Client

        uplink.remove(Client(name))
        echo("uplink removed: the lab is isolated from this machine's network")


def _warn_of_made_namespaces(names: Sequence[str]) -> None:
    if names:
        noun = "namespaces" if len(names) > 1 else "namespace"
        note(
            f"{paint('warning:', WARNING)} created {noun} {', '.join(names)}, "
            "which no manifest contains"
        )
