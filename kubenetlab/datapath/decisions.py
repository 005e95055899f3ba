"""Decisions that `up` makes for the machine and keeps: pod layout and neighbour entries.

All network namespaces of the machine share the kernel's dynamic neighbour table (1,024 entries by
default), so only small labs use ARP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster

MAX_ONLINK_PODS = 64
"""Maximum number of pods per node in the layout `onlink`.

Pods on one subnet need n² permanent neighbour entries of half a kilobyte of kernel memory each.
With 100 pods per node these take a tenth of the time of `up`, and 50 MB in a lab of 1,000 pods. The
layout `routed` needs two entries per pod.
"""
MAX_DYNAMIC_NEIGHBORS = 256
"""Maximum number of neighbour entries of a lab that uses ARP.

Three such labs fit into the kernel's table beside the machine's own entries.
"""


def decide(
    cluster: Cluster,
    *,
    has_br_netfilter: bool,
    has_command: Callable[[str], bool] = lambda _: False,
) -> Decisions:
    """Return the decisions for this store.

    The pod layout of a running lab never changes. Neighbours may become permanent when a lab grows,
    but not dynamic again. Options of the CNI mode take precedence where they are not `auto`.

    has_command: returns True for a container command that is a program of the machine.
    """
    wiring = _wiring(cluster, has_br_netfilter)
    return structs.replace(wiring, real_commands=_real_commands(cluster, has_command))


def _real_commands(cluster: Cluster, has_command: Callable[[str], bool]) -> tuple[str, ...]:
    if not cluster.config.real_commands:
        return ()
    commands = {
        container.command[0]
        for pod in cluster.all(Pod)
        for container in pod.spec.all_containers
        if container.command
    }
    return tuple(sorted(command for command in commands if has_command(command)))


def _wiring(cluster: Cluster, has_br_netfilter: bool) -> Decisions:
    options = cluster.config.networking.cni_mode[1]
    before = cluster.get(Decisions, "", "decisions")
    settled = before if before is not None and before.is_final else None
    counts = _pods_per_node(cluster)
    layout, why_layout = _layout(counts, has_br_netfilter)
    if options.get("layout", "auto") != "auto":
        layout, why_layout = options["layout"], "as asked for"
    neighbors, why_neighbors = _neighbors(
        counts, len(cluster.all(Node)), settled.pod_layout if settled else layout
    )
    if options.get("neighbors", "auto") != "auto":
        neighbors, why_neighbors = options["neighbors"], "as asked for"
    if settled is not None:
        if settled.neighbors in (neighbors, "permanent"):
            return settled
        return structs.replace(
            settled,
            neighbors=neighbors,
            reasons=(settled.reasons[0], f"{neighbors} neighbours: {why_neighbors}"),
        )
    shape = (
        "pods on their node's subnet, switched by cbr0"
        if layout == "onlink"
        else "each pod a /32, routed by its node"
    )
    return Decisions(
        pod_layout=layout,
        neighbors=neighbors,
        is_final=any(counts),
        reasons=(f"{shape}: {why_layout}", f"{neighbors} neighbours: {why_neighbors}"),
    )


def _pods_per_node(cluster: Cluster) -> list[int]:
    counts = {node.name: 0 for node in cluster.all(Node)}
    for attachment in cluster.all(Attachment):
        if attachment.node in counts:
            counts[attachment.node] += 1
    return list(counts.values())


def _layout(counts: list[int], has_br_netfilter: bool) -> tuple[Literal["onlink", "routed"], str]:
    if not has_br_netfilter:
        return (
            "routed",
            "this kernel has no br_netfilter, which Services need where pods share a bridge",
        )
    if max(counts, default=0) > MAX_ONLINK_PODS:
        return "routed", f"a node has {max(counts)} pods, more than {MAX_ONLINK_PODS}"
    return "onlink", "the kernel has br_netfilter"


def _neighbors(
    counts: list[int], nodes: int, layout: str
) -> tuple[Literal["dynamic", "permanent"], str]:
    """Return the choice and its reason.

    On a subnet each pod may resolve every other pod; behind a route it resolves only its node.
    """
    entries = (
        sum(count * (count - 1) for count in counts if layout == "onlink")
        + 2 * sum(counts)
        + nodes**2
    )
    if entries > MAX_DYNAMIC_NEIGHBORS:
        return (
            "permanent",
            f"there may be {entries} entries in the kernel's shared table, "
            f"more than {MAX_DYNAMIC_NEIGHBORS}",
        )
    return "dynamic", f"there are at most {entries} entries, ARP can be watched"
