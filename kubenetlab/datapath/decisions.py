"""Decisions for this machine: the CNI mode's, neighbour entries, and the policy engine.

All network namespaces of the machine share the kernel's dynamic neighbour table (1,024 entries by
default), so only small labs use ARP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.kinds import POLICY_KINDS
from kubenetlab.api.lab import Attachment, Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.cluster_modes import plain_options
from kubenetlab.datapath.modes import CNI, LabSize, load, policy_engines

MAX_DYNAMIC_NEIGHBORS = 256
"""Maximum number of neighbour entries of a lab that uses ARP.

Three such labs fit into the kernel's table beside the machine's own entries.
"""


def decide(
    cluster: Cluster,
    *,
    has_br_netfilter: bool,
    has_command: Callable[[str], bool] = lambda _: False,
    engine_fault: Callable[[str], str] = lambda _: "",
) -> Decisions:
    """Return the decisions for this store.

    The CNI mode decides on its options, such as the layout of pod networks, and may keep those of a
    running lab. Neighbours may become permanent when a lab grows, but not dynamic again. Options
    take precedence where they are not `auto`.

    has_command: returns True for a container command that is a program of the machine.
    engine_fault: returns why the machine cannot run a policy engine, or an empty text.
    """
    network = _network(cluster, has_br_netfilter)
    cni: CNI = load("cni", network.cni_mode, network.cni_options)
    engine, reason = _policy_engine(cluster, engine_fault)
    return structs.replace(
        network,
        policy_engine=engine,
        policy_engine_reason=reason,
        netfilter_bypass=cni.netfilter_bypass(has_br_netfilter=has_br_netfilter),
        real_commands=_real_commands(cluster, has_command),
    )


def are_dynamic(cluster: Cluster, entries: int) -> bool:
    """Return True if a lab with this number of neighbour entries lets the kernel learn them.

    The Cluster document counts, so that a lab whose mode is about to change is right.
    """
    cni: CNI = load("cni", *cluster.config.networking.cni_mode)
    if cni.desired_neighbors == "auto":
        return entries <= MAX_DYNAMIC_NEIGHBORS
    return cni.desired_neighbors == "dynamic"


def _policy_engine(cluster: Cluster, fault_of: Callable[[str], str]) -> tuple[str, str]:
    """Return a policy engine in place of the default one, and why that cannot run.

    Both are empty if the default one is right, and if there is no policy. A policy engine of the
    Cluster document is not replaced.
    """
    networking = cluster.config.networking
    if networking.policy_engine is not None or not any(map(cluster.by_key, POLICY_KINDS)):
        return "", ""
    default, *others = policy_engines(networking)
    if default == "none" or not (fault := fault_of(default)):
        return "", ""
    for name in others:
        if name != "none" and not fault_of(name):
            return name, f"policy engine {name}: {fault}"
    return "", ""


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


def _network(cluster: Cluster, has_br_netfilter: bool) -> Decisions:
    name, options = cluster.config.networking.cni_mode
    before = cluster.get(Decisions, "", "decisions")
    is_settled = (
        before is not None
        and before.is_final
        and (before.cni_mode, before.requested_options) == (name, options)
    )
    settled = before if is_settled else None
    lab = LabSize(_pods_per_node(cluster), has_br_netfilter)
    asked_for: CNI = load("cni", name, options)
    cni, reasons = asked_for.decide(
        lab, load("cni", name, settled.cni_options) if settled else None
    )
    neighbors, reason = _neighbors(cni, lab)
    if settled is not None:
        if settled.neighbors in (neighbors, "permanent"):
            return settled
        reasons = settled.reasons[:-1]
    return Decisions(
        cni_mode=name,
        cni_options=plain_options(cni),
        requested_options=options,
        neighbors=neighbors,
        is_final=settled is not None or any(lab.pods_per_node),
        reasons=(*reasons, f"{neighbors} neighbours: {reason}"),
    )


def _pods_per_node(cluster: Cluster) -> tuple[int, ...]:
    counts = {node.name: 0 for node in cluster.all(Node)}
    for attachment in cluster.all(Attachment):
        if attachment.node in counts:
            counts[attachment.node] += 1
    return tuple(counts.values())


def _neighbors(cni: CNI, lab: LabSize) -> tuple[Literal["dynamic", "permanent"], str]:
    """Return the choice and its reason."""
    if cni.desired_neighbors != "auto":
        return cni.desired_neighbors, "as the CNI mode and its options say"
    entries = cni.dynamic_neighbors(lab)
    if entries > MAX_DYNAMIC_NEIGHBORS:
        return (
            "permanent",
            f"there may be {entries} entries in the kernel's shared table, "
            f"more than {MAX_DYNAMIC_NEIGHBORS}",
        )
    return "dynamic", f"there are at most {entries} entries, ARP can be watched"
