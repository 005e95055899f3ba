"""Pods that a policy selects, and the pods, nodes and hosts that its rules mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from kubenetlab.api.calico.policies import CalicoPolicy
from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_labels import identity_labels, is_subject
from kubenetlab.api.policies.cilium_network_policy import CiliumPolicy, CiliumRule
from kubenetlab.api.policies.network_policy import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.policies.tiers import TierPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.calico import CalicoRules
from kubenetlab.observe.policies.subjects import Subjects, is_in_block

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


class NamedHost(Struct, frozen=True):
    """A pod, node or host outside, with the addresses that are meant."""

    name: str
    """`namespace/name`, `node:NAME` or `ext:NAME`."""
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.addresses) or 'no address yet'})"


class PolicyMembers:
    """Members of the selectors and ranges of policies in one lab."""

    def __init__(self, cluster: Cluster, seen: Inspection | None = None) -> None:
        """Prepare the members.

        cluster: pods with a network of their own are members, others are not.
        seen: document of `inspect`, for nodes and hosts outside; without it, there are only pods.
        """
        self._subjects = Subjects(cluster)
        self._calico = CalicoRules(cluster, self._subjects)
        self._cluster = cluster
        self._seen = seen

    def selected(self, policy: NetworkPolicy) -> list[Pod]:
        """Return the pods that a policy isolates."""
        return [
            pod
            for pod in self._pods()
            if pod.namespace == policy.namespace and policy.spec.pod_selector.matches(pod.labels)
        ]

    def subjects_of(self, policy: TierPolicy) -> list[Pod]:
        """Return the pods to which a policy of a tier applies."""
        return [
            pod
            for pod in self._pods()
            if policy.spec.subject.matches(self._subjects.namespace_labels(pod), pod.labels)
        ]

    def selected_by_cilium(self, policy: CiliumPolicy, rule: CiliumRule) -> list[Pod]:
        """Return the pods to which a specification of a policy of Cilium applies."""
        if rule.endpoint_selector is None:
            return []
        return [
            pod
            for pod in self._pods()
            if is_subject(
                rule.endpoint_selector,
                policy.namespace,
                identity_labels(pod, self._subjects.namespace_labels(pod)),
            )
        ]

    def selected_by_calico(self, policy: CalicoPolicy) -> list[Pod]:
        """Return the pods to which a policy of Calico applies."""
        return [pod for pod in self._pods() if self._calico.is_subject(policy, pod)]

    def pods_of(self, policy: NetworkPolicy, peer: NetworkPolicyPeer) -> list[Pod]:
        """Return the pods that the selectors of a peer match."""
        namespaces = {policy.namespace}
        if peer.namespace_selector is not None:
            namespaces = {
                namespace.name
                for namespace in self._cluster.all(Namespace)
                if peer.namespace_selector.matches(namespace.labels)
            }
        pods = peer.pod_selector or LabelSelector()
        return [
            pod for pod in self._pods() if pod.namespace in namespaces and pods.matches(pod.labels)
        ]

    def hosts_in(self, block: IPBlock) -> list[NamedHost]:
        """Return the pods, nodes and hosts outside with addresses in a block."""
        return [
            NamedHost(name, own)
            for name, addresses in self._hosts()
            if (own := tuple(each for each in addresses if is_in_block(each, block)))
        ]

    def ports_named(self, port: NetworkPolicyPort, pods: Iterable[Pod]) -> list[int]:
        """Return the numbers that a port's name has in some pods."""
        numbers = (
            number
            for pod in pods
            for number in self._subjects.ports_named(pod.full_name, str(port.port), port.protocol)
        )
        return sorted(set(numbers))

    def _pods(self) -> Iterator[Pod]:
        return (pod for pod in self._cluster.all(Pod) if pod.full_name in self._subjects)

    def _hosts(self) -> Iterator[tuple[str, Iterable[str]]]:
        for pod in self._pods():
            yield pod.full_name, pod.addresses
        if self._seen is None:
            return
        for node in self._seen["nodes"]:
            yield f"node:{node['name']}", node["addresses"]
        for host in self._seen["external"]:
            yield f"ext:{host['name']}", host["addresses"]


def named(pods: Iterable[Pod]) -> list[NamedHost]:
    """Return pods with all their addresses."""
    return [NamedHost(pod.full_name, pod.addresses) for pod in pods]
