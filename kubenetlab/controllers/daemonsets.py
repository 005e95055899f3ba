"""daemonset controller: one pod on every node that fits, also on those that ordinary pods may not come to.

Its pods are bound to their nodes by the controller; they tolerate what a node's own agents must tolerate.
Source: k8s.io/kubernetes pkg/controller/daemon/{daemon_controller.go,update.go,util/daemonset_util.go} (AddOrUpdateDaemonPodTolerations).
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
from kubenetlab.controllers import rollout
from kubenetlab.controllers.children import create_pod, delete_pod, new_pod
from kubenetlab.controllers.naming import child_name, template_hash
from kubenetlab.controllers.scheduler_filters import matches_node, tolerates
from kubenetlab.controllers.serials import Serials

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
_TOLERATED_ON_THE_NODES_NETWORK: Final = (("node.kubernetes.io/network-unavailable", "NoSchedule"),)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    serials = Serials(cluster)
    for daemon_set in cluster.all(DaemonSet):
        revision = template_hash(daemon_set.spec.template)
        tolerations = _tolerations(daemon_set.spec.template.spec)
        fitting = [node.name for node in cluster.all(Node) if _fits(daemon_set, node, tolerations)]
        keeping = [
            node.name
            for node in cluster.all(Node)
            if _fits(daemon_set, node, tolerations, ("NoExecute",))
        ]
        owned = cluster.owned_by(Pod, daemon_set)
        on_node = {
            _node_of(pod): pod for pod in owned if not pod.is_terminating and not pod.is_finished
        }
        going = {_node_of(pod) for pod in owned if pod.is_terminating}
        taken = {pod.name for pod in owned}
        for node in fitting:
            if node not in on_node and node not in going:
                name, serials[daemon_set] = child_name(
                    daemon_set.name, serials[daemon_set], taken, daemon_set.namespace
                )
                taken.add(name)
                pod = _pod(daemon_set, name, node, tolerations, revision, serials, now)
                yield from create_pod(cluster, daemon_set, pod, SOURCE, now)
        for pod in owned:
            is_surplus = (
                _node_of(pod) not in keeping
                or pod.is_finished
                or pod is not on_node.get(_node_of(pod))
            )
            if is_surplus and not pod.is_terminating:
                yield from delete_pod(cluster, daemon_set, pod, SOURCE, now)
        here = {node: pod for node, pod in on_node.items() if node in fitting}
        yield from _update(cluster, daemon_set, here, len(fitting), revision, now)
        status = _status(daemon_set, fitting, on_node, revision)
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
    """The next old pods to go: those that are not ready at once, of the others as many as may lack."""
    strategy = daemon_set.spec.update_strategy
    if strategy.type == "OnDelete":
        return
    _, may_lack = rollout.limits(desired, 0, strategy.rolling_update.max_unavailable)
    old = [pod for pod in on_node.values() if pod.labels.get(CONTROLLER_REVISION_LABEL) != revision]
    unready = [pod for pod in old if not pod.is_ready]
    room = may_lack - (desired - sum(pod.is_ready for pod in on_node.values()))
    for pod in (*unready, *[pod for pod in old if pod.is_ready][: max(0, room)]):
        yield from delete_pod(cluster, daemon_set, pod, SOURCE, now)


def _fits(
    daemon_set: DaemonSet,
    node: Node,
    tolerations: Sequence[Toleration],
    effects: Sequence[str] = ("NoSchedule", "NoExecute"),
) -> bool:
    """True when a pod may come to the node; with NoExecute alone, when one that is there may stay."""
    spec = daemon_set.spec.template.spec
    if spec.node_name not in ("", node.name) or not matches_node(spec, node):
        return False
    return all(
        taint.effect not in effects or tolerates(tolerations, taint) for taint in node.spec.taints
    )


def _tolerations(spec: PodSpec) -> tuple[Toleration, ...]:
    wanted = (*_TOLERATED, *(_TOLERATED_ON_THE_NODES_NETWORK if spec.host_network else ()))
    added = tuple(Toleration(key=key, operator="Exists", effect=effect) for key, effect in wanted)
    return (
        *spec.tolerations,
        *(toleration for toleration in added if toleration not in spec.tolerations),
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
    # With gates the scheduler has to wait for their removal, so that the pod is bound by affinity, as upstream binds every one.
    place = (
        {"affinity": _pinned(template.spec.affinity, node)}
        if template.spec.scheduling_gates
        else {"node_name": node}
    )
    return new_pod(daemon_set, template, name, uid, now, labels, tolerations=tolerations, **place)


def _pinned(affinity: Affinity, node: str) -> Affinity:
    """Return an affinity that only one node matches.

    Source: k8s.io/kubernetes pkg/controller/daemon/util (ReplaceDaemonSetPodNodeNameNodeAffinity).
    """
    field = NodeSelectorRequirement(_NODE_NAME_FIELD, "In", (node,))
    selector = NodeSelector((NodeSelectorTerm(match_fields=(field,)),))
    nodes = structs.replace(
        affinity.node_affinity, required_during_scheduling_ignored_during_execution=selector
    )
    return structs.replace(affinity, node_affinity=nodes)


def _node_of(pod: Pod) -> str:
    """Return the name of the node that a pod of a DaemonSet is made for, whether or not it is bound to it yet."""
    selector = pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if pod.spec.node_name or selector is None:
        return pod.spec.node_name
    fields = (field for term in selector.node_selector_terms for field in term.match_fields)
    return next(
        (field.values[0] for field in fields if field.key == _NODE_NAME_FIELD and field.values), ""
    )


def _status(
    daemon_set: DaemonSet, fitting: Sequence[str], on_node: Mapping[str, Pod], revision: str
) -> DaemonSetStatus:
    here = [pod for node, pod in on_node.items() if node in fitting]
    ready = sum(pod.is_ready for pod in here)
    return DaemonSetStatus(
        desired_number_scheduled=len(fitting),
        current_number_scheduled=len(here),
        number_misscheduled=len(on_node) - len(here),
        number_ready=ready,
        number_available=ready,
        number_unavailable=len(fitting) - ready,
        updated_number_scheduled=sum(
            pod.labels.get(CONTROLLER_REVISION_LABEL) == revision for pod in here
        ),
        observed_generation=daemon_set.metadata.generation,
    )
