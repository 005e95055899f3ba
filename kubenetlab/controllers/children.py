"""What every workload does with its pods: make them from a template, find its own, take in what nobody owns."""

from collections.abc import Iterator
from typing import Any

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
from kubenetlab.controllers.events import event
from kubenetlab.controllers.termination import terminated


def owner_reference(owner: Resource) -> OwnerReference:
    """What a child says of its owner."""
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
    **spec: Any,
) -> Pod:
    """A pod of a workload; `labels` and fields of the spec are those that the workload adds to its template."""
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
    """A new pod, and word of it."""
    yield pod
    yield event(
        cluster, owner, "Normal", "SuccessfulCreate", f"Created pod: {pod.name}", source, now
    )


def delete_pod(
    cluster: Cluster, owner: Resource, pod: Pod, source: str, now: float
) -> Iterator[Change]:
    """A pod on its way out, and word of it."""
    yield from terminated(pod, now)
    yield event(
        cluster, owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod.name}", source, now
    )


def unowned_pods(cluster: Cluster, owner: Resource, selector: LabelSelector) -> list[Pod]:
    """The pods that a workload's selector matches and nobody owns."""
    found = cluster.select(owner.namespace, selector)
    return [
        pod
        for pod in found
        if not (pod.metadata.owner_references or pod.is_terminating or pod.is_finished)
    ]


def adopt_pod(pod: Pod, owner: Resource) -> Pod:
    """The pod as the workload's own."""
    return structs.replace(
        pod, metadata=structs.replace(pod.metadata, owner_references=(owner_reference(owner),))
    )
