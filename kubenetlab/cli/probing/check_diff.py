"""`check --diff`: the connections that a change of manifests opens and closes, without a lab."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, note, print_table
from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, paint

if TYPE_CHECKING:
    from kubenetlab.api.store import Cluster
    from kubenetlab.observe.changes.changes import Change


def show_changes(old: str, new: str, output: str) -> None:
    """Print the changes between two files or directories of manifests."""
    from kubenetlab.observe.changes.changes import compare
    from kubenetlab.observe.changes.words import sentences, summary

    clusters = _cluster_of(old), _cluster_of(new)
    changes = compare(*clusters, os.getcwd())
    if output in ("json", "yaml"):
        print_document(_as_data(changes), output)
        return
    if output == "text":
        for line in sentences(changes):
            echo(line)
    else:
        _print_table(changes)
        echo(summary(changes))
    if not any(_user_pods(cluster) for cluster in clusters):
        note("the manifests have no pods: add the workloads, so that policies select something")


def _cluster_of(path: str) -> Cluster:
    """Return the objects of a lab with the manifests in which every pod runs.

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
    return cluster.with_changes(
        structs.replace(pod, status=structs.replace(pod.status, phase="Running"))
        for pod in cluster.all(Pod)
        if pod.is_finished
    )


def _user_pods(cluster: Cluster) -> bool:
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


def _as_data(changes: list[Change]) -> JsonObject:
    from msgspec import to_builtins

    return {
        kind: sum(change.count for change in changes if change.change == kind)
        for kind in ("opened", "closed")
    } | {"changes": to_builtins(changes)}
