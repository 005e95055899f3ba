"""`check --diff`: the connections that a change of manifests opens and closes, without a lab."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.api.store import Cluster
    from kubenetlab.observe.changes.changes import Change


def show_changes(old: str, new: str, output: str) -> None:
    """Print the changes between two files or directories of manifests.

    The exit status is 1 if a changed policy has parts that no lab enforces. Raises UsageError if
    neither version has pods, and ManifestError.
    """
    from kubenetlab.cli.probing.unenforced_changes import unenforced_changes
    from kubenetlab.errors import UsageError
    from kubenetlab.observe.changes.changes import compare
    from kubenetlab.observe.changes.without_effect import policies_without_effect

    (before, has_old_modes), (after, has_new_modes) = _cluster_of(old), _cluster_of(new)
    if not any(map(_has_user_pods, (before, after))):
        raise UsageError(
            f"--diff: neither {old} nor {new} has pods, so their policies select nothing; "
            "add the pods, or their workloads, to both"
        )
    changes = compare(before, after, os.getcwd())
    unenforced = unenforced_changes(before, after, has_modes=has_old_modes or has_new_modes)
    without_effect = policies_without_effect(before, after, os.getcwd())
    if output in ("json", "yaml"):
        print_document(_as_data(changes, unenforced, without_effect), output)
    else:
        _print_lines(changes, unenforced, without_effect, is_text=output == "text")
    if unenforced:
        raise typer.Exit(1)


def _print_lines(
    changes: list[Change],
    unenforced: Sequence[str],
    without_effect: Sequence[str],
    *,
    is_text: bool,
) -> None:
    """Print the changes as sentences or as a table, and policies about which they say nothing."""
    from kubenetlab.observe.changes.words import sentences, summary

    if is_text:
        for line in sentences(changes):
            echo(line)
    else:
        _print_table(changes)
        echo(summary(changes))
    for message in unenforced:
        echo(f"- Not reliable: {message}." if is_text else f"{paint('✗', BAD)} {message}")
    for message in without_effect:
        echo(f"- Not compared: {message}." if is_text else f"{paint('!', WARNING)} {message}")


def _cluster_of(path: str) -> tuple[Cluster, bool]:
    """Return the objects of a lab in which every pod runs, and True with a Cluster document.

    Pods of Jobs run, too, although they end: their connections matter. Raises ManifestError.
    """
    from msgspec import structs

    from kubenetlab.api.pods import Pod
    from kubenetlab.cli.input.manifests import read
    from kubenetlab.lab.bootstrap import bootstrap_store
    from kubenetlab.lab.simulation import simulate

    manifests = read([path])
    bootstrap = bootstrap_store(manifests.config, manifests.entries, 0.0)
    cluster = simulate(bootstrap.cluster, 0.0)
    running = cluster.with_changes(
        structs.replace(pod, status=structs.replace(pod.status, phase="Running"))
        for pod in cluster.all(Pod)
        if pod.is_finished
    )
    return running, manifests.config is not None


def _has_user_pods(cluster: Cluster) -> bool:
    """Return True if there are pods besides those of the cluster itself."""
    from kubenetlab.api.pods import Pod

    return any(pod.namespace != "kube-system" for pod in cluster.all(Pod))


def _print_table(changes: list[Change]) -> None:
    rows = [
        (
            paint("+ opened", BAD) if change.change == "opened" else paint("- closed", GOOD),
            ", ".join(change.sources),
            ", ".join(change.destinations),
            ", ".join(change.ports),
            f"{change.before} → {change.after}",
            paint("; ".join(change.reasons), MUTED),
        )
        for change in changes
    ]
    if rows:
        print_table(("CHANGE", "FROM", "TO", "PORTS", "ACCESS", "REASON"), rows)


def _as_data(
    changes: list[Change], unenforced: Sequence[str], without_effect: Sequence[str]
) -> JsonObject:
    from msgspec import to_builtins

    return {
        kind: sum(change.count for change in changes if change.change == kind)
        for kind in ("opened", "closed")
    } | {
        "changes": to_builtins(changes),
        "unenforced": list(unenforced),
        "without_effect": list(without_effect),
    }
