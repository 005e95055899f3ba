"""Changes of an existing pod: the fields of its spec that an update may change.

Source: k8s.io/kubernetes pkg/apis/core/validation ValidatePodUpdate (1.33).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.scheduling import NodeSelectorTerm
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path

_NODE_AFFINITY: Path = (
    "spec",
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
)


def forbidden_changes(old: Pod, new: Pod) -> Iterator[Finding]:
    """Yield a finding for every forbidden change of a pod's spec.

    Images may change, tolerations may be added and scheduling gates removed. While a pod has
    scheduling gates, its node selector and its required node affinity may become narrower.
    """
    yield from _added_gates(old.spec, new.spec)
    images = {container.name: container.image for container in new.spec.containers}
    containers = tuple(
        structs.replace(container, image=images.get(container.name, ""))
        for container in old.spec.containers
    )
    allowed = structs.replace(
        old.spec,
        containers=containers,
        tolerations=new.spec.tolerations,
        node_name=new.spec.node_name,
        scheduling_gates=new.spec.scheduling_gates,
    )
    if old.spec.scheduling_gates:
        yield from _widened(old.spec, new.spec)
        affinity = structs.replace(old.spec.affinity, node_affinity=new.spec.affinity.node_affinity)
        allowed = structs.replace(allowed, node_selector=new.spec.node_selector, affinity=affinity)
    kept = all(toleration in new.spec.tolerations for toleration in old.spec.tolerations)
    moved = new.spec.node_name not in ("", old.spec.node_name)
    if allowed != new.spec or not kept or moved:
        hint = f"delete {old.title} first (kubenetlab delete pod {old.name} -n {old.namespace})"
        message = (
            "a pod's spec is immutable but for its images, added tolerations"
            " and removed schedulingGates"
        )
        yield Finding(("spec",), message, hints=(hint,))


def _added_gates(old: PodSpec, new: PodSpec) -> Iterator[Finding]:
    for index, gate in enumerate(new.scheduling_gates):
        if gate not in old.scheduling_gates:
            message = f"only deletion is allowed, but found new scheduling gate {found(gate.name)}"
            yield Finding(("spec", "schedulingGates", index, "name"), message)


def _widened(old: PodSpec, new: PodSpec) -> Iterator[Finding]:
    """Yield a finding for each change by which a gated pod could run on more nodes than before."""
    if any(new.node_selector.get(key) != value for key, value in old.node_selector.items()):
        yield Finding(
            ("spec", "nodeSelector"), "only additions are allowed while the pod has schedulingGates"
        )
    before = old.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    after = new.affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if before is None:
        return
    terms = after.node_selector_terms if after is not None else ()
    if len(terms) != len(before.node_selector_terms):
        message = (
            f"terms cannot be added or removed: expected {len(before.node_selector_terms)},"
            f" found {len(terms)}"
        )
        yield Finding(_NODE_AFFINITY, message)
        return
    for index, (old_term, new_term) in enumerate(
        zip(before.node_selector_terms, terms, strict=True)
    ):
        if not _has_only_additions(old_term, new_term):
            yield Finding(
                (*_NODE_AFFINITY, index),
                "while the pod has schedulingGates, expressions of this term may be added, "
                "but none may be changed or removed",
            )


def _has_only_additions(old: NodeSelectorTerm, new: NodeSelectorTerm) -> bool:
    if old == NodeSelectorTerm():  # an empty term matches no node: a requirement would widen it
        return new == old
    pairs = ((old.match_expressions, new.match_expressions), (old.match_fields, new.match_fields))
    return all(after[: len(before)] == before for before, after in pairs)
