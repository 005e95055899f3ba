"""Pods as network policies see them, and the pods that a selector matches.

When one pod changes, each selector is compared with this pod alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import msgspec
from msgspec import Struct

from kubenetlab.api.calico.selectors import Expression
from kubenetlab.api.core import Namespace
from kubenetlab.api.lab import Attachment
from kubenetlab.api.meta import Labels, LabelSelector
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import has_addresses
from kubenetlab.datapath.policy.calico_labels import (
    labels_of,
    namespace_labels,
    pod_labels,
    service_account,
)
from kubenetlab.versioned import ChangedEntries, VersionedMap

NamedPort = tuple[str, str, int]
"""(name, protocol, number) of a container port."""


class PolicyPod(Struct, frozen=True):
    """A pod with a network of its own."""

    namespace: str
    name: str
    labels: Labels
    addresses: tuple[str, ...]
    named_ports: tuple[NamedPort, ...]
    """Ports of its containers that have names."""
    node: str = ""
    """Name of its node."""
    service_account: str = "default"

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


Pods = VersionedMap[ObjectKey, PolicyPod]
"""Pods by namespace and name."""


class PodGroup(Struct, frozen=True):
    """Pods that selectors match; equal selectors of several policies are one group."""

    namespace: str
    """Namespace of the pods; empty if `namespaces` selects them."""
    pods: str
    """Selector of the pods, as JSON."""
    namespaces: str = ""
    """Selector of the namespaces, as JSON; empty without one."""
    expression: Expression | None = None
    """Calico's selector of the pods, in place of the others; see calico_labels.py."""

    @classmethod
    def of(
        cls,
        namespace: str,
        pods: LabelSelector | None,
        namespaces: LabelSelector | None = None,
    ) -> PodGroup:
        """Return the group of a peer, or of the subjects, of a policy in `namespace`."""
        selector = _text(pods or LabelSelector())
        return (
            cls(namespace, selector) if namespaces is None else cls("", selector, _text(namespaces))
        )

    @classmethod
    def selected(cls, expression: Expression) -> PodGroup:
        """Return the group of the pods that Calico's selector matches."""
        return cls("", "", expression=expression)

    def __str__(self) -> str:
        """Return `pods app=web in namespace shop`, for comments in the kernel."""
        if self.expression is not None:
            return f"pods {self.expression}"
        pods = f"pods {self.pod_selector}" if str(self.pod_selector) else "all pods"
        selector = self.namespace_selector
        if selector is None:
            return f"{pods} in namespace {self.namespace}"
        return f"{pods} in " + (f"namespaces {selector}" if str(selector) else "all namespaces")

    @property
    def pod_selector(self) -> LabelSelector:
        return msgspec.json.decode(self.pods, type=LabelSelector)

    @property
    def namespace_selector(self) -> LabelSelector | None:
        if not self.namespaces:
            return None
        return msgspec.json.decode(self.namespaces, type=LabelSelector)


def _text(selector: LabelSelector) -> str:
    """Return a selector as text; equal ones have the same text, whatever the order of labels."""
    return msgspec.json.encode(selector, order="deterministic").decode()


def policy_pods(cluster: Cluster, cache: PlanCache) -> Pods:
    """Return every pod that has addresses of its own."""
    pods, attachments = cluster.by_key(Pod), cluster.by_key(Attachment)
    return cache.each_key(
        "policy pods",
        lambda key: _policy_pod(pods.get(key), attachments.get(key)),
        pods,
        attachments,
    )


def _policy_pod(pod: Pod | None, attachment: Attachment | None) -> PolicyPod | None:
    if pod is None or attachment is None or not has_addresses(pod, attachment):
        return None
    ports = (
        (port.name, port.protocol, port.container_port)
        for container in pod.spec.long_running_containers
        for port in container.ports
        if port.name
    )
    return PolicyPod(
        pod.namespace,
        pod.name,
        pod.labels,
        attachment.addresses,
        tuple(ports),
        attachment.node,
        service_account(pod),
    )


def members(cache: PlanCache, cluster: Cluster, pods: Pods, group: PodGroup) -> Pods:
    """Return the pods of a group."""
    if group.expression is not None:
        labels = cluster.index(Namespace, namespace_labels)
        return cache.follow(
            ("members", group),
            partial(_members_by_expression, group.expression, labels),
            pods,
            given=labels,
        )
    selector = group.namespace_selector
    if selector is None:
        namespaces = frozenset([group.namespace])
    else:
        namespaces = cluster.index(Namespace, _namespaces_by_labels, group.namespaces)
    return cache.follow(
        ("members", group),
        partial(_members, group.pod_selector, namespaces),
        pods,
        given=namespaces,
    )


def _namespaces_by_labels(namespaces: tuple[Namespace, ...], selector: str) -> frozenset[str]:
    """Return the names of the namespaces that a selector, as JSON, matches."""
    decoded = msgspec.json.decode(selector, type=LabelSelector)
    return frozenset(each.name for each in namespaces if decoded.matches(each.labels))


def _members(
    selector: LabelSelector,
    namespaces: frozenset[str],
    former: Pods | None,
    changes: ChangedEntries[ObjectKey, PolicyPod],
) -> Pods:
    return (Pods() if former is None else former).with_changes(
        {
            key: pod
            if pod is not None and pod.namespace in namespaces and selector.matches(pod.labels)
            else None
            for key, (_, pod) in changes.items()
        }
    )


def _members_by_expression(
    selector: Expression,
    labels_of_namespaces: Mapping[str, Labels],
    former: Pods | None,
    changes: ChangedEntries[ObjectKey, PolicyPod],
) -> Pods:
    return (Pods() if former is None else former).with_changes(
        {
            key: pod
            if pod is not None
            and selector.matches(
                pod_labels(
                    pod.labels,
                    pod.namespace,
                    labels_of_namespaces.get(pod.namespace, {}),
                    pod.service_account,
                )
            )
            else None
            for key, (_, pod) in changes.items()
        }
    )


def selected_pods(cluster: Cluster, group: PodGroup) -> Iterator[Pod]:
    """Yield the pods of a group, also those without addresses."""
    if group.expression is not None:
        of_namespaces = cluster.index(Namespace, namespace_labels)
        for pod in cluster.all(Pod):
            labels = labels_of(pod, of_namespaces)
            if not pod.spec.host_network and group.expression.matches(labels):
                yield pod
        return
    selector, pods = group.namespace_selector, group.pod_selector
    namespaces = (
        {group.namespace}
        if selector is None
        else {
            name
            for name, labels in cluster.labels_of_namespaces.items()
            if selector.matches(labels)
        }
    )
    for namespace in namespaces:
        yield from (pod for pod in cluster.select(namespace, pods) if not pod.spec.host_network)


def groups_of_pods(
    subjects: tuple[PodGroup, ...],
    former: VersionedMap[ObjectKey, tuple[PodGroup, ...]] | None,
    *news: ChangedEntries[ObjectKey, PolicyPod],
) -> VersionedMap[ObjectKey, tuple[PodGroup, ...]]:
    """Return the groups of each pod, in the order of `subjects`, which `news` has, too."""
    known = VersionedMap[ObjectKey, tuple[PodGroup, ...]]() if former is None else former
    joined: dict[ObjectKey, set[PodGroup]] = {}
    for group, changes in zip(subjects, news, strict=True):
        for key, (_, pod) in changes.items():
            of_pod = joined.setdefault(key, set(known.get(key, ())))
            if pod is not None:
                of_pod.add(group)
            else:
                of_pod.discard(group)
    order = {group: number for number, group in enumerate(subjects)} if joined else {}
    updated = {key: tuple(sorted(groups, key=order.__getitem__)) for key, groups in joined.items()}
    return known.with_changes(
        {
            key: (before if (before := known.get(key)) == groups else groups) or None
            for key, groups in updated.items()
        }
    )
