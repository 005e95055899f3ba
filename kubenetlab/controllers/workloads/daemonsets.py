"""daemonset controller: one pod on every node that the template fits.

It reads DaemonSets, pods and nodes, and creates and deletes pods, each bound to its node by the
controller itself. The pods tolerate the taints that a node's own agents must tolerate, so they also
run on nodes that reject ordinary pods.
Source: k8s.io/kubernetes pkg/controller/daemon/{daemon_controller.go,update.go,
util/daemonset_util.go} (AddOrUpdateDaemonPodTolerations).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import CONTROLLER_REVISION_LABEL, DaemonSet, DaemonSetStatus
from kubenetlab.api.core import Node
from kubenetlab.api.pods import Pod, PodSpec, Toleration
from kubenetlab.api.scheduling import (
    Affinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
)
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.scheduling.scheduler_filters import matches_node, tolerates
from kubenetlab.controllers.support.children import create_pod, delete_pod, new_pod
from kubenetlab.controllers.support.naming import child_name, template_hash
from kubenetlab.controllers.support.serials import Serials
from kubenetlab.controllers.workloads import rollout

SOURCE = "daemonset-controller"
_NODE_NAME_FIELD: Final = "metadata.name"

WATCHES: Final[tuple[Kind, ...]] = (DaemonSet, Pod, Node)

_TOLERATED: Final = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
_TOLERATED_WITH_HOST_NETWORK: Final = (("node.kubernetes.io/network-unavailable", "NoSchedule"),)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    serials = Serials(cluster)
    for daemon_set in cluster.all(DaemonSet):
        revision = template_hash(daemon_set.spec.template)
        tolerations = _tolerations(daemon_set.spec.template.spec)
        eligible = [node.name for node in cluster.all(Node) if _fits(daemon_set, node, tolerations)]
        may_stay = [
            node.name
            for node in cluster.all(Node)
            if _fits(daemon_set, node, tolerations, ("NoExecute",))
        ]
        owned = cluster.owned_by(Pod, daemon_set)
        on_node = {
            _node_of(pod): pod for pod in owned if not pod.is_terminating and not pod.is_finished
        }
        terminating = {_node_of(pod) for pod in owned if pod.is_terminating}
        taken = {pod.name for pod in owned}
        for node in eligible:
            if node not in on_node and node not in terminating:
                name, serials[daemon_set] = child_name(
                    daemon_set.name, serials[daemon_set], taken, daemon_set.namespace
                )
                taken.add(name)
                pod = _pod(daemon_set, name, node, tolerations, revision, serials, now)
                yield from create_pod(cluster, daemon_set, pod, SOURCE, now)
        for pod in owned:
            is_surplus = (
                _node_of(pod) not in may_stay
                or pod.is_finished
                or pod is not on_node.get(_node_of(pod))
            )
            if is_surplus and not pod.is_terminating:
                yield from delete_pod(cluster, daemon_set, pod, SOURCE, now)
        running = {node: pod for node, pod in on_node.items() if node in eligible}
        yield from _update(cluster, daemon_set, running, len(eligible), revision, now)
        status = _status(daemon_set, eligible, on_node, revision)
        if status != daemon_set.status:
            yield structs.replace(daemon_set, status=status)
    yield from serials.changes()


def _update(
    cluster: Cluster,
    daemon_set: DaemonSet,
    on_node: Mapping[str, Pod],
    desired: int,
    revision: str,
    now: float,
) -> Iterator[Change]:
    """Yield the deletion of the next pods of an old template.

    Unready pods are deleted at once, ready ones as far as maxUnavailable allows.
    """
    strategy = daemon_set.spec.update_strategy
    if strategy.type == "OnDelete":
        return
    _, max_unavailable = rollout.limits(desired, 0, strategy.rolling_update.max_unavailable)
    old = [pod for pod in on_node.values() if pod.labels.get(CONTROLLER_REVISION_LABEL) != revision]
    unready = [pod for pod in old if not pod.is_ready]
    capacity = max_unavailable - (desired - sum(pod.is_ready for pod in on_node.values()))
    for pod in (*unready, *[pod for pod in old if pod.is_ready][: max(0, capacity)]):
        yield from delete_pod(cluster, daemon_set, pod, SOURCE, now)


def _fits(
    daemon_set: DaemonSet,
    node: Node,
    tolerations: Sequence[Toleration],
    effects: Sequence[str] = ("NoSchedule", "NoExecute"),
) -> bool:
    """Return True when no taint with one of `effects` and no selector keeps the pod off the node.

    With all effects: a new pod may be created there. With NoExecute alone: a running pod may stay.
    """
    spec = daemon_set.spec.template.spec
    if spec.node_name not in ("", node.name) or not matches_node(spec, node):
        return False
    return all(
        taint.effect not in effects or tolerates(tolerations, taint) for taint in node.spec.taints
    )


def _tolerations(spec: PodSpec) -> tuple[Toleration, ...]:
    tolerated = (*_TOLERATED, *(_TOLERATED_WITH_HOST_NETWORK if spec.host_network else ()))
    defaults = tuple(
        Toleration(key=key, operator="Exists", effect=effect) for key, effect in tolerated
    )
    return (
        *spec.tolerations,
        *(toleration for toleration in defaults if toleration not in spec.tolerations),
    )


def _pod(
    daemon_set: DaemonSet,
    name: str,
    node: str,
    tolerations: tuple[Toleration, ...],
    revision: str,
    serials: Serials,
    now: float,
) -> Pod:
    labels = {CONTROLLER_REVISION_LABEL: revision, "pod-template-generation": "1"}
    uid = serials.child_uid("Pod", daemon_set, name)
    template = daemon_set.spec.template
    # A pod with scheduling gates must stay unbound until they are removed, so it is pinned by
    # affinity, as upstream does for every pod.
    binding = (
        {"affinity": _pinned(template.spec.affinity, node)}
        if template.spec.scheduling_gates
        else {"node_name": node}
    )
    return new_pod(daemon_set, template, name, uid, now, labels, tolerations=tolerations, **binding)


def _pinned(affinity: Affinity, node: str) -> Affinity:
    """Return `affinity` with a required node affinity that matches only the node.

    Source: k8s.io/kubernetes pkg/controller/daemon/util (ReplaceDaemonSetPodNodeNameNodeAffinity).
    """
    field = NodeSelectorRequirement(_NODE_NAME_FIELD, "In", (node,))
    selector = NodeSelector((NodeSelectorTerm(match_fields=(field,)),))
    nodes = structs.replace(
        affinity.node_affinity, required_during_scheduling_ignored_during_execution=selector
    )
    return structs.replace(affinity, node_affinity=nodes)


def _node_of(pod: Pod) -> str:
    """Return the node that a DaemonSet's pod was created for, whether or not it is bound yet."""
    selector = pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if pod.spec.node_name or selector is None:
        return pod.spec.node_name
    fields = (field for term in selector.node_selector_terms for field in term.match_fields)
    return next(
        (field.values[0] for field in fields if field.key == _NODE_NAME_FIELD and field.values), ""
    )


def _status(
    daemon_set: DaemonSet, eligible: Sequence[str], on_node: Mapping[str, Pod], revision: str
) -> DaemonSetStatus:
    scheduled = [pod for node, pod in on_node.items() if node in eligible]
    ready = sum(pod.is_ready for pod in scheduled)
    return DaemonSetStatus(
        desired_number_scheduled=len(eligible),
        current_number_scheduled=len(scheduled),
        number_misscheduled=len(on_node) - len(scheduled),
        number_ready=ready,
        number_available=ready,
        number_unavailable=len(eligible) - ready,
        updated_number_scheduled=sum(
            pod.labels.get(CONTROLLER_REVISION_LABEL) == revision for pod in scheduled
        ),
        observed_generation=daemon_set.metadata.generation,
    )
