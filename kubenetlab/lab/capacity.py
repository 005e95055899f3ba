"""Resources that a lab needs, computed from its store, and compared with the machine's limits.

The comparison is made before a lab is created or changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Final, NamedTuple

from kubenetlab import programs
from kubenetlab.api.apps import ReplicaSet, ReplicationController, StatefulSet
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Decisions, NetworkFacts
from kubenetlab.api.pods import Pod, is_of_job
from kubenetlab.api.store import Cluster, Kind
from kubenetlab.datapath.containers import setups_of
from kubenetlab.datapath.decisions import are_dynamic
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
    read_limits,
    remeasured,
    require_available,
)
from kubenetlab.lab.context import LabContext

MAX_WORKERS: Final = 8
_FABRIC: Final = 3
"""Number of namespaces of the fabric: switch, router, internet."""
MAX_NODE_AGENTS: Final = 2
SINGLE_AGENT_NODES: Final = 4
"""Maximum number of nodes of a lab with a single node agent."""
_OWN_PROCESSES: Final = 3
"""Processes besides node agents, workers and pods: init, agent, and the agent's second thread,
which counts as a process."""
_BASE_COUNT: Final = 16
"""Approximate number of processes, and of namespaces, of a lab with a few nodes and no pods."""
_SPARE_FILES: Final = 128
"""Descriptors per process for connections, and for Python itself."""
_BASE_MB: Final = 60
"""Memory of the lab's own processes, in MiB."""
_KB_PER_SANDBOX: Final = 640
"""Memory of a namespace with a link, its sysctls and its pause process, in KiB: 520 in the kernel,
110 in the processes of the lab. See docs/performance.md."""
_AGENT_MB: Final = 320
"""Address space of the largest process, the agent, in MiB: 80 with the stacks of its threads, and
64 that glibc reserves for each of the three threads that wait for memory at the same time."""
_KB_PER_POD: Final = 110
"""Memory of the agent for one pod, in KiB."""
_KB_PER_PROCESS: Final = 3000
"""Memory of a process that is forked from init, such as CoreDNS, in KiB."""
_SIZED_BY: Final[tuple[Kind, ...]] = (
    ClusterConfig,
    Decisions,
    NetworkFacts,
    Node,
    Pod,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
)
"""Kinds from which `needs` is computed."""


def node_agents_for(nodes: int) -> int:
    """Return the number of node agents: the rules of many nodes take several processors."""
    return 1 if nodes <= SINGLE_AGENT_NODES else MAX_NODE_AGENTS


def workers_for(nodes: int) -> int:
    """Return the number of app workers: one per node, at most MAX_WORKERS."""
    return min(MAX_WORKERS, max(1, nodes))


def require_capacity(
    lab: str, cluster: Cluster, limits: Iterable[Limit], before: Cluster | None = None
) -> None:
    """Raise RequirementError if a lab needs more of a resource than the machine has left.

    The error names every resource that is short. A change that needs no more than the lab has now
    is always accepted.

    before: the store of the running lab, whose resources the new one reuses; None for a new lab.
    """
    needed, current = list(needs(cluster)), list(needs(before)) if before is not None else []
    if before is not None and not any(
        need.amount > old.amount for need, old in zip(needed, current, strict=True)
    ):
        return
    size = f"{len(cluster.all(Node)):,} nodes and {_pods(cluster):,} pods"
    require_available(lab, size, needed, limits, current)


def _may_need_more(cluster: Cluster, before: Cluster) -> bool:
    """Return False if the changes of a store cannot change its needs, such as those of labels."""
    changes = cluster.changes_since(before.cursor(_SIZED_BY))
    return any(
        not isinstance(old, Pod)
        or not isinstance(new, Pod)
        or _properties_of_size(old) != _properties_of_size(new)
        for of_kind in changes.by_kind.values()
        for old, new in of_kind
    )


def _properties_of_size(pod: Pod) -> tuple[object, ...]:
    """Return the properties of a pod from which `needs` is computed."""
    meta = pod.metadata
    return (
        pod.uid,
        pod.spec,
        meta.annotations,
        meta.owner_references,
        pod.is_finished,
        pod.is_terminating,
    )


def check_growth(context: LabContext, cluster: Cluster, before: Cluster) -> None:
    """Raise RequirementError if a running lab would outgrow the machine; called inside the lab."""
    if _may_need_more(cluster, before):
        now = read_limits(f"/proc/self/fd/{context.outer_proc_fd}")
        require_capacity(context.lab, cluster, remeasured(context.limits, now), before)


def max_pods(limits: Iterable[Limit]) -> tuple[int, Limit]:
    """Return the maximum number of pods in a lab of a few nodes, and the limit that determines it.

    The number is rounded down to two significant digits.
    """
    maxima = []
    for limit in limits:
        if limit.resource == MEMORY:
            maxima.append(((limit.available - _BASE_MB) * 1024 // _KB_PER_SANDBOX, limit))
        elif limit.resource in (
            PROCESSES,
            FILES,
            *(NAMESPACES[word] for word in ("net", "pid", "uts", "ipc")),
        ):
            maxima.append(
                (
                    limit.available - (_SPARE_FILES if limit.resource == FILES else _BASE_COUNT),
                    limit,
                )
            )
    pods, scarcest = min(maxima, key=lambda entry: entry[0])
    digits = max(0, len(str(pods)) - 2)
    return max(0, pods // 10**digits * 10**digits), scarcest


def needs(cluster: Cluster) -> Iterator[Need]:
    """Yield the needs of a store, in an order that is the same for all stores."""
    existing = [pod for pod in cluster.all(Pod) if not pod.is_finished]
    nodes = [node.name for node in cluster.all(Node)]
    outside = _FABRIC + len(cluster.config.external)
    pods = _pods(cluster)
    sandboxes = outside + len(nodes) + pods
    expected = _expected_pods(cluster)
    on_host_network = sum(pod.spec.host_network for pod in existing) + sum(
        pod.spec.host_network * count for pod, count in expected
    )
    own = _OWN_PROCESSES + node_agents_for(len(nodes)) + workers_for(len(nodes))
    sockets, processes = _runs(cluster, existing)
    expected_runs = [(count, *_runs(cluster, [pod])) for pod, count in expected]
    processes += sum(count * per_pod for count, _, per_pod in expected_runs)
    yield Need(PROCESSES, sandboxes + own + processes)
    descriptors = sum(count * (1 + sum(per_pod.values())) for count, per_pod, _ in expected_runs)
    schedulable = [
        node.name for node in cluster.all(Node) if not (node.spec.taints or node.spec.unschedulable)
    ] or nodes
    yield Need(
        FILES, *_files(nodes, existing, sockets, sandboxes, _spread(descriptors, schedulable))
    )
    for kind, amount in {
        "net": sandboxes - on_host_network,
        "pid": sandboxes,
        "uts": sandboxes - on_host_network,
        "ipc": sandboxes,
        "mnt": processes,
    }.items():
        yield Need(NAMESPACES[kind], amount + 1)  # one more for init
    yield Need(NAMESPACES["user"], 1 if os.geteuid() else 0)
    on_bridges = sum(count for pod, count in expected if not pod.spec.host_network)
    yield _bridge_ports(cluster, nodes, existing, outside, _spread(on_bridges, schedulable))
    # One entry for each pod on its node and vice versa, and for each node on every other node.
    entries = 2 * (pods - on_host_network) + len(nodes) ** 2
    yield Need(NEIGHBORS, entries if are_dynamic(cluster, entries) else 0)
    yield Need(ADDRESS_SPACE, _AGENT_MB + pods * _KB_PER_POD // 1024)
    yield Need(
        MEMORY, _BASE_MB + (sandboxes * _KB_PER_SANDBOX + processes * _KB_PER_PROCESS) // 1024
    )


class _ExpectedPods(NamedTuple):
    """Pods that a workload will create."""

    example: Pod
    amount: int


def _expected_pods(cluster: Cluster) -> list[_ExpectedPods]:
    """Return the pods that ReplicaSets will create; in a running lab they come in bursts."""
    result = []
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
            example = Pod(template.metadata, template.spec)
            result.append(_ExpectedPods(example, workload.spec.replicas - owned))
    return result


def _pods(cluster: Cluster) -> int:
    """Return the number of existing and expected pods.

    A StatefulSet creates its pods one after another, so its missing replicas are counted as well.
    """
    count = sum(not pod.is_finished for pod in cluster.all(Pod)) + sum(
        expected.amount for expected in _expected_pods(cluster)
    )
    for workload in cluster.all(StatefulSet):
        owned = sum(
            any(owner.uid == workload.uid for owner in pod.metadata.owner_references)
            for pod in cluster.all(Pod, workload.namespace)
        )
        count += max(0, workload.spec.replicas - owned)
    return count


def _runs(cluster: Cluster, pods: Iterable[Pod]) -> tuple[dict[str, int], int]:
    """Return the listening sockets of built-in programs by pod uid, and the number of processes.

    The second value counts the containers that run as processes of their own.
    """
    decisions = cluster.get(Decisions, "", "decisions")
    real_commands = decisions.real_commands if decisions is not None else ()
    sockets: dict[str, int] = {}
    processes = 0
    for pod in pods:
        setups = setups_of(
            pod.spec, pod.metadata.annotations, is_of_job(pod.metadata), (), real_commands
        )
        running = [setups[container.name] for container in pod.spec.long_running_containers]
        built_in = [setup for setup in running if not programs.is_process(setup.program)]
        processes += len(running) - len(built_in)
        sockets[pod.uid] = sum(len(setup.listeners) for setup in built_in)
    return sockets, processes


def _spread(amount: int, nodes: Sequence[str]) -> dict[str, int]:
    """Divide an amount evenly among nodes, rounded up; return an empty dict for an amount of 0."""
    return dict.fromkeys(nodes, ceil(amount / len(nodes))) if amount and nodes else {}


def _files(
    nodes: list[str],
    pods: list[Pod],
    sockets: dict[str, int],
    sandboxes: int,
    expected: Mapping[str, int],
) -> tuple[int, str]:
    """Return the largest number of open files of one process, and the name of that process.

    A process has a pidfd for each sandbox that it watches, and its sockets.

    expected: number of descriptors for pods that have no node yet, by node.
    """
    count = workers_for(len(nodes))
    worker_of = {node: number % count for number, node in enumerate(nodes)}
    by_process = Counter({"app worker": 0})
    for pod in pods:
        by_process[f"app worker {worker_of.get(pod.spec.node_name, 0)}"] += 1 + sockets[pod.uid]
    for node, amount in expected.items():
        by_process[f"app worker {worker_of[node]}"] += amount
    by_process["agent"] = sandboxes + 2 * len(nodes)
    by_process["node agent"] = 4 * len(nodes) + len(pods)
    process, most = max(by_process.items(), key=lambda entry: entry[1])
    return most + _SPARE_FILES, f"the lab's {process}"


def _bridge_ports(
    cluster: Cluster, nodes: list[str], pods: list[Pod], outside: int, expected: Mapping[str, int]
) -> Need:
    """Return the number of ports of the largest bridge: of a node, the fabric, or the internet.

    outside: number of namespaces of the fabric and of external hosts.
    expected: number of pods that have no node yet, by node.
    """
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    counts = {"the wire between the nodes": len(nodes) + 1, "the internet": outside - _FABRIC + 1}
    if facts.bridge:
        on_node = Counter(
            pod.spec.node_name for pod in pods if pod.spec.node_name and not pod.spec.host_network
        )
        on_node.update(expected)
        counts |= {f"{facts.bridge} of node {node}": amount for node, amount in on_node.items()}
    bridge, most = max(counts.items(), key=lambda entry: entry[1])
    return Need(BRIDGE_PORTS, most, bridge)
