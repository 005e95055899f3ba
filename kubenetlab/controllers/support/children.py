"""Operations that all workload controllers share: create, delete, find and adopt pods."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.meta import (
    Labels,
    LabelSelector,
    ObjectMeta,
    OwnerReference,
    Resource,
    timestamp,
)
from kubenetlab.api.pods import Pod, PodTemplateSpec
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.support.events import event
from kubenetlab.controllers.support.termination import deletion_changes


def owner_reference(owner: Resource) -> OwnerReference:
    """Return the reference to `owner` for the metadata of a child."""
    return OwnerReference(
        owner.api_version,
        owner.kind,
        owner.name,
        owner.uid,
        controller=True,
        block_owner_deletion=True,
    )


def new_pod(
    owner: Resource,
    template: PodTemplateSpec,
    name: str,
    uid: str,
    now: float,
    labels: Labels,
    **spec: object,
) -> Pod:
    """Return a pod of a workload.

    labels: labels that the workload adds to those of its template.
    spec: fields of the pod's spec that replace those of the template.
    """
    meta = ObjectMeta(
        name=name,
        namespace=owner.namespace,
        labels={**template.metadata.labels, **labels},
        annotations=template.metadata.annotations,
        uid=uid,
        creation_timestamp=timestamp(now),
        owner_references=(owner_reference(owner),),
    )
    return Pod(meta, structs.replace(template.spec, **spec) if spec else template.spec)


def create_pod(
    cluster: Cluster, owner: Resource, pod: Pod, source: str, now: float
) -> Iterator[Change]:
    """Yield a new pod and its event."""
    yield pod
    yield event(
        cluster, owner, "Normal", "SuccessfulCreate", f"Created pod: {pod.name}", source, now
    )


def delete_pod(
    cluster: Cluster, owner: Resource, pod: Pod, source: str, now: float
) -> Iterator[Change]:
    """Yield the changes that start a pod's termination, and their event."""
    yield from deletion_changes(pod, now)
    yield event(
        cluster, owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod.name}", source, now
    )


def unowned_pods(cluster: Cluster, owner: Resource, selector: LabelSelector) -> list[Pod]:
    """Return the running pods without an owner that a workload's selector matches."""
    by_label = cluster.index(Pod, _unowned_by_label)
    labels = selector.match_labels.items() or (_ANY_LABEL,)
    pods = min((by_label.get((owner.namespace, *pair), ()) for pair in labels), key=len)
    return [pod for pod in pods if selector.matches(pod.labels)]


_ANY_LABEL: Final = ("", "")
"""Label under which all pods of a namespace are found."""


def _unowned_by_label(pods: Iterable[Pod]) -> Mapping[tuple[str, str, str], Sequence[Pod]]:
    """Return running pods without an owner by (namespace, key of a label, value of the label)."""
    result: dict[tuple[str, str, str], list[Pod]] = {}
    for pod in pods:
        if pod.metadata.owner_references or pod.is_terminating or pod.is_finished:
            continue
        for pair in (_ANY_LABEL, *pod.labels.items()):
            result.setdefault((pod.namespace, *pair), []).append(pod)
    return result


def adopt_pod(pod: Pod, owner: Resource) -> Pod:
    """Return the pod with `owner` as its owner."""
    return structs.replace(
        pod, metadata=structs.replace(pod.metadata, owner_references=(owner_reference(owner),))
    )
