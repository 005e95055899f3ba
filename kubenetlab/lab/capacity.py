"""What a lab needs of the machine, counted from its store, and whether the machine has it: asked before anything is made or changed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Final, NamedTuple

from kubenetlab import programs
from kubenetlab.api.apps import ReplicaSet, ReplicationController, StatefulSet
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Decisions, NetworkFacts
from kubenetlab.api.pods import Pod, is_of_job
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.containers import setups_of
from kubenetlab.kernel.features.limits import (
    ADDRESS_SPACE,
    BRIDGE_PORTS,
    FILES,
    MEMORY,
    NAMESPACES,
    NEIGHBORS,
    PROCESSES,
    Limit,
    Need,
    measured_anew,
    read,
    require_room,
)
from kubenetlab.lab.context import LabContext

MAX_WORKERS: Final = 8
_FABRIC: Final = 3
"""Namespaces of the wire: switch, router, internet."""
MAX_NODE_AGENTS: Final = 2
NODES_OF_ONE: Final = 4
"""So many nodes one node agent takes alone."""
_OWN_PROCESSES: Final = 3
"""init, agent, and the agent's second thread, which counts like a process; node agents and app workers come on top."""
_OWN: Final = 16
"""Of processes and namespaces, about: what a lab of a few nodes has without any pod."""
_SPARE_FILES: Final = 128
"""Of each process: connections that are open at one time, and what Python has open itself."""
_MB: Final = 60
"""Of the lab's own processes."""
_KB_PER_SANDBOX: Final = 640
"""For a namespace with a link, its settings and its pause process: 520 of the kernel, and 110 of what our processes know of it. See docs/performance.md."""
_AGENT_MB: Final = 128
"""Address space of the largest process, the agent, with its threads; 80 are enough for a lab of a few pods."""
_KB_PER_POD: Final = 110
"""What the agent knows of one."""
_KB_PER_PROCESS: Final = 3000
"""Of a process that is forked from init, such as CoreDNS."""


def node_agents_for(nodes: int) -> int:
    """How many node agents a lab has: loading the rules of many nodes keeps more than one processor busy."""
    return 1 if nodes <= NODES_OF_ONE else MAX_NODE_AGENTS


def workers_for(nodes: int) -> int:
    """How many app workers a lab has: one a node, and not too many."""
    return min(MAX_WORKERS, max(1, nodes))


def check_room(
    lab: str, cluster: Cluster, limits: Iterable[Limit], before: Cluster | None = None
) -> None:
    """Raises RequirementError, naming all that is lacking, when a store's lab is larger than the machine allows.

    `before` is the store as it runs now, whose share of what is taken is the lab's own. Fewer pods are never too many.
    """
    needed, had = list(needs(cluster)), list(needs(before)) if before is not None else []
    if before is not None and not any(
        need.amount > other.amount for need, other in zip(needed, had, strict=True)
    ):
        return
    pods = _pods(cluster)
    require_room(lab, f"{len(cluster.all(Node)):,} nodes and {pods:,} pods", needed, limits, had)


def check_growth(boot: LabContext, cluster: Cluster, before: Cluster) -> None:
    """The same for a lab that runs, asked inside it. Raises RequirementError."""
    now = read(f"/proc/self/fd/{boot.outer_proc}")
    check_room(boot.lab, cluster, measured_anew(boot.limits, now), before)


def pods_that_fit(limits: Iterable[Limit]) -> tuple[int, Limit]:
    """How many pods a lab of a few nodes may have, in round figures, and which limit ends it."""
    fits = []
    for limit in limits:
        if limit.resource == MEMORY:
            fits.append(((limit.room - _MB) * 1024 // _KB_PER_SANDBOX, limit))
        elif limit.resource in (
            PROCESSES,
            FILES,
            *(NAMESPACES[word] for word in ("net", "pid", "uts", "ipc")),
        ):
            fits.append((limit.room - (_SPARE_FILES if limit.resource == FILES else _OWN), limit))
    pods, scarcest = min(fits, key=lambda entry: entry[0])
    digits = max(0, len(str(pods)) - 2)
    return max(0, pods // 10**digits * 10**digits), scarcest


def needs(cluster: Cluster) -> Iterator[Need]:
    """Everything that is counted, in one order for all stores."""
    placed = [pod for pod in cluster.all(Pod) if not pod.is_finished]
    nodes = [node.name for node in cluster.all(Node)]
    outside = _FABRIC + len(cluster.config.external)
    pods = _pods(cluster)
    sandboxes = outside + len(nodes) + pods
    awaited = _awaited(cluster)
    shared = sum(pod.spec.host_network for pod in placed) + sum(
        pod.spec.host_network * count for pod, count in awaited
    )
    own = _OWN_PROCESSES + node_agents_for(len(nodes)) + workers_for(len(nodes))
    sockets, processes = _runs(cluster, placed)
    to_come = [(count, *_runs(cluster, [pod])) for pod, count in awaited]
    processes += sum(count * of_one for count, _, of_one in to_come)
    yield Need(PROCESSES, sandboxes + own + processes)
    opened = sum(count * (1 + sum(of_one.values())) for count, of_one, _ in to_come)
    open_nodes = [
        node.name for node in cluster.all(Node) if not (node.spec.taints or node.spec.unschedulable)
    ] or nodes
    yield Need(FILES, *_files(nodes, placed, sockets, sandboxes, _spread(opened, open_nodes)))
    for word, amount in {
        "net": sandboxes - shared,
        "pid": sandboxes,
        "uts": sandboxes - shared,
        "ipc": sandboxes,
        "mnt": processes,
    }.items():
        yield Need(NAMESPACES[word], amount + 1)  # init has one of each, too
    yield Need(NAMESPACES["user"], 1 if os.geteuid() else 0)
    on_bridges = sum(count for pod, count in awaited if not pod.spec.host_network)
    yield _bridge_ports(cluster, nodes, placed, outside, _spread(on_bridges, open_nodes))
    decisions = cluster.get(Decisions, "", "decisions")
    is_dynamic = decisions is not None and decisions.neighbors == "dynamic"
    yield Need(
        NEIGHBORS, 2 * (pods - shared) + len(nodes) ** 2 if is_dynamic else 0
    )  # each pod and its node, each node and each other
    yield Need(ADDRESS_SPACE, _AGENT_MB + pods * _KB_PER_POD // 1024)
    yield Need(MEMORY, _MB + (sandboxes * _KB_PER_SANDBOX + processes * _KB_PER_PROCESS) // 1024)


class _Awaited(NamedTuple):
    """Pods that a workload has not got yet, and one like them."""

    like: Pod
    amount: int


def _awaited(cluster: Cluster) -> list[_Awaited]:
    """Return the pods that ReplicaSets lack: in a lab that runs they come in bursts."""
    found = []
    workloads: list[ReplicaSet | ReplicationController] = [
        *cluster.all(ReplicaSet),
        *cluster.all(ReplicationController),
    ]
    for workload in workloads:
        owned = sum(
            not (pod.is_finished or pod.is_terminating) for pod in cluster.owned_by(Pod, workload)
        )
        if workload.spec.replicas > owned:
            template = workload.spec.template
            found.append(
                _Awaited(Pod(template.metadata, template.spec), workload.spec.replicas - owned)
            )
    return found


def _pods(cluster: Cluster) -> int:
    """Pods that run or will: those of a StatefulSet come one after the other."""
    count = sum(not pod.is_finished for pod in cluster.all(Pod)) + sum(
        several.amount for several in _awaited(cluster)
    )
    for workload in cluster.all(StatefulSet):
        owned = sum(
            any(owner.uid == workload.uid for owner in pod.metadata.owner_references)
            for pod in cluster.all(Pod, workload.namespace)
        )
        count += max(0, workload.spec.replicas - owned)
    return count


def _runs(cluster: Cluster, pods: Iterable[Pod]) -> tuple[dict[str, int], int]:
    """(pod's uid → sockets that its programs listen on, how many containers are processes of their own)."""
    decisions = cluster.get(Decisions, "", "decisions")
    real_commands = decisions.real_commands if decisions is not None else ()
    sockets: dict[str, int] = {}
    processes = 0
    for pod in pods:
        setups = setups_of(
            pod.spec, pod.metadata.annotations, is_of_job(pod.metadata), (), real_commands
        )
        found = [setups[container.name] for container in pod.spec.long_running_containers]
        own = [programs.is_process(setup.program) for setup in found]
        processes += sum(own)
        sockets[pod.uid] = sum(
            len(setup.listeners) for setup, is_own in zip(found, own, strict=True) if not is_own
        )
    return sockets, processes


def _spread(amount: int, nodes: Sequence[str]) -> dict[str, int]:
    """Return an amount divided evenly among nodes, rounded up; nothing where there is nothing."""
    return dict.fromkeys(nodes, ceil(amount / len(nodes))) if amount and nodes else {}


def _files(
    nodes: list[str],
    pods: list[Pod],
    sockets: dict[str, int],
    sandboxes: int,
    to_come: Mapping[str, int],
) -> tuple[int, str]:
    """(how many, whose) of the process that has most open: a pidfd for each sandbox it watches, and sockets.

    to_come: what pods will have open that have no node yet, by the nodes over which they will be spread.
    """
    count = workers_for(len(nodes))
    worker_of = {node: number % count for number, node in enumerate(nodes)}
    by_worker = Counter({"app worker": 0})
    for pod in pods:
        by_worker[f"app worker {worker_of.get(pod.spec.node_name, 0)}"] += 1 + sockets[pod.uid]
    for node, amount in to_come.items():
        by_worker[f"app worker {worker_of[node]}"] += amount
    by_worker["agent"] = sandboxes + 2 * len(nodes)
    by_worker["node agent"] = 4 * len(nodes) + len(pods)
    whose, most = max(by_worker.items(), key=lambda entry: entry[1])
    return most + _SPARE_FILES, f"the lab's {whose}"


def _bridge_ports(
    cluster: Cluster, nodes: list[str], pods: list[Pod], outside: int, to_come: Mapping[str, int]
) -> Need:
    """The fullest bridge: a node's, the wire between the nodes, or the internet's. `to_come` are pods that have no node yet."""
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    counts = {"the wire between the nodes": len(nodes) + 1, "the internet": outside - _FABRIC + 1}
    if facts.bridge:
        on_node = Counter(
            pod.spec.node_name for pod in pods if pod.spec.node_name and not pod.spec.host_network
        )
        on_node.update(to_come)
        counts |= {f"{facts.bridge} of node {node}": amount for node, amount in on_node.items()}
    whose, most = max(counts.items(), key=lambda entry: entry[1])
    return Need(BRIDGE_PORTS, most, whose)
