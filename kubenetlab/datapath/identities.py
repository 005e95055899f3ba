"""Identities of pods: one number for each set of labels.

The number follows from the labels, so that the same manifests always give the same numbers. If two
sets of labels would get the same number, the later one in alphabetical order gets the next free
one.
Source: cilium/cilium pkg/identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_labels import identity_labels, texts
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import has_addresses
from kubenetlab.hoststate.rules.cilium_entries import FIRST_LABEL_IDENTITY
from kubenetlab.versioned import VersionedMap

FIRST, LAST = FIRST_LABEL_IDENTITY, 65535
"""Range of the numbers; smaller ones are reserved for peers without labels."""

LabelSet = tuple[str, ...]
"""Labels as `k8s:app=web`, in alphabetical order."""


class ClusterPod(Struct, frozen=True):
    """A pod, as every node knows it."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    node_addresses: tuple[str, ...]
    """Addresses of its node."""
    labels: LabelSet

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


def cluster_pods(cluster: Cluster, cache: PlanCache) -> VersionedMap[ObjectKey, ClusterPod]:
    """Return every pod with a link of its own, by namespace and name."""
    pods, attachments = cluster.by_key(Pod), cluster.by_key(Attachment)
    nodes = {node.name: node.addresses for node in cluster.all(Node)}
    namespaces = cluster.labels_of_namespaces
    return cache.each_key(
        "cluster pods",
        lambda key: _cluster_pod(pods.get(key), attachments.get(key), nodes, namespaces),
        pods,
        attachments,
        given=(nodes, namespaces),
    )


def _cluster_pod(
    pod: Pod | None,
    attachment: Attachment | None,
    nodes: Mapping[str, tuple[str, ...]],
    namespaces: Mapping[str, Mapping[str, str]],
) -> ClusterPod | None:
    if pod is None or attachment is None or not has_addresses(pod, attachment):
        return None
    labels = security_labels(pod, namespaces.get(pod.namespace, {}))
    node_addresses = nodes.get(attachment.node, ())
    return ClusterPod(pod.namespace, pod.name, attachment.addresses, node_addresses, labels)


def security_labels(pod: Pod, namespace_labels: Mapping[str, str]) -> LabelSet:
    """Return the labels that determine the identity of a pod."""
    return tuple(texts(identity_labels(pod, namespace_labels)))


def identities(label_sets: Iterable[LabelSet]) -> dict[LabelSet, int]:
    """Return a number for each set of labels."""
    numbers: dict[LabelSet, int] = {}
    taken: set[int] = set()
    for labels in sorted(set(label_sets)):
        number = _number(labels)
        while number in taken:
            number = number + 1 if number < LAST else FIRST
        taken.add(number)
        numbers[labels] = number
    return numbers


def numbers_by_labels(cluster: Cluster, cache: PlanCache) -> Mapping[LabelSet, int]:
    """Return the number of each set of labels that a pod has."""
    pods = cluster_pods(cluster, cache)
    return cache.by_identity(
        "identities", lambda: identities(pod.labels for pod in pods.values()), pods
    )


def numbers_of(cluster: Cluster, cache: PlanCache) -> VersionedMap[ObjectKey, int]:
    """Return the number of each pod with a link of its own, by namespace and name."""
    pods, numbers = cluster_pods(cluster, cache), numbers_by_labels(cluster, cache)

    def build(
        known: tuple[object, VersionedMap[ObjectKey, int]] | None,
    ) -> VersionedMap[ObjectKey, int]:
        former = VersionedMap[ObjectKey, int]() if known is None else known[1]
        return former.replaced_by({key: numbers[pod.labels] for key, pod in pods.items()})

    return cache.from_former("identities of pods", build, (pods, numbers))


def _number(labels: Sequence[str]) -> int:
    digest = hashlib.sha256("\n".join(labels).encode()).digest()
    return FIRST + int.from_bytes(digest[:8], "big") % (LAST - FIRST + 1)
