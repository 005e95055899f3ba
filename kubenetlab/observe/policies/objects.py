"""Objects that decide about connections, as a lab's API sends them: policies, pods, namespaces.

Pods have only the fields that policies read: labels, ports with names, service account, and
hostNetwork. The Cluster document has the external hosts, whose names policies can have. Policies of
Calico come with the network sets, tiers and endpoints to which they refer, those of Cilium with
Services and groups of ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypedDict

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.calico.policies import CALICO_GROUP_KINDS, CALICO_POLICY_KINDS
from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.api.containers import Container
from kubenetlab.api.core import Namespace, Node, NodeStatus, Service, ServiceSpec
from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.kinds import POLICY_KINDS, POLICY_PEER_KINDS
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.object_map import ObjectKey
from kubenetlab.api.pods import Pod, PodSpec, PodStatus
from kubenetlab.api.policies.cilium_rules import CILIUM_GROUP_KINDS, CILIUM_KINDS
from kubenetlab.api.store import Cluster, DocumentSource

_KINDS: Final[tuple[type[Resource], ...]] = (
    ClusterConfig,
    Namespace,
    Node,
    Pod,
    *POLICY_KINDS,
    *POLICY_PEER_KINDS,
)


class PolicyDocument(TypedDict):
    """An object in the reply of the API."""

    kind: str
    object: JsonObject
    source: JsonObject | None
    """File and line of a policy; None if they are not known."""


class PolicyReply(TypedDict):
    """Reply of the API to the request `policies`."""

    enforced: list[str]
    """Kinds of policies that the lab enforces."""
    local_ranges: list[str]
    """Ranges of pods whose source address kube-proxy keeps in traffic to cluster IPs."""
    objects: list[PolicyDocument]
    """Empty without policies, unless the request has `objects=always`."""


class PolicyObjects(Struct, frozen=True):
    """Policies of a lab, with the objects that they select."""

    cluster: Cluster
    """Policies, pods, namespaces, nodes, and the Cluster document."""
    sources: Mapping[tuple[str, str], DocumentSource]
    """(kind, `namespace/name`) of a policy → file and line of its document."""
    enforced: frozenset[str]
    """Kinds of policies that the lab enforces."""
    local_ranges: tuple[str, ...] = ()
    """Ranges of pods whose source address kube-proxy keeps in traffic to cluster IPs."""

    @property
    def policies(self) -> Sequence[Resource]:
        return [policy for kind in POLICY_KINDS for policy in self.cluster.all(kind)]

    def only_enforced(self) -> PolicyObjects:
        """Return the objects without policies of kinds that the lab does not enforce."""
        objects = {
            kind: by_key
            for kind, by_key in self.cluster.objects.items()
            if kind not in POLICY_KINDS or kind.kind in self.enforced
        }
        return structs.replace(self, cluster=structs.replace(self.cluster, objects=objects))


def render_policy_objects(
    cluster: Cluster, enforced: Sequence[str], local_ranges: Sequence[str]
) -> PolicyReply:
    """Return the reply of the API.

    enforced: kinds of policies that the lab enforces.
    local_ranges: ranges of pods whose source address kube-proxy keeps in traffic to cluster IPs.
    """
    config = cluster.config
    others: Sequence[Resource] = (
        ClusterConfig(
            _meta(config),
            networking=Networking(
                ip_family=config.networking.ip_family, pod_subnet=config.networking.pod_subnet
            ),
            external=config.external,  # policies can name them
        ),
        *(Namespace(_meta(each)) for each in cluster.all(Namespace)),
        *(
            Node(_meta(each), status=NodeStatus(addresses=each.status.addresses))
            for each in cluster.all(Node)
        ),
        *map(_pod, cluster.all(Pod)),
        *_peers_of_calico(cluster),
        *_peers_of_cilium(cluster),
    )
    objects: list[PolicyDocument] = [
        {"kind": each.kind, "object": msgspec.to_builtins(each), "source": None} for each in others
    ]
    objects += [
        {
            "kind": policy.kind,
            "object": msgspec.to_builtins(policy),
            "source": msgspec.to_builtins(cluster.source_of(policy)),
        }
        for kind in POLICY_KINDS
        for policy in cluster.all(kind)
    ]
    return {"enforced": list(enforced), "local_ranges": list(local_ranges), "objects": objects}


def _peers_of_calico(cluster: Cluster) -> Iterator[Resource]:
    """Yield the objects to which policies of Calico refer; none without such policies."""
    policies = [policy for kind in CALICO_POLICY_KINDS for policy in cluster.all(kind)]
    if policies:
        for kind in CALICO_GROUP_KINDS:
            yield from cluster.all(kind)
    services = dict.fromkeys(name for policy in policies for name in policy.services)
    for service in services:
        yield from cluster.slices_by_service.get(service, ())


def _peers_of_cilium(cluster: Cluster) -> Iterator[Resource]:
    """Yield the objects to which policies of Cilium refer; none without such policies.

    These are groups of ranges, Services, and EndpointSlices of Services without a selector.
    """
    if not any(cluster.by_key(kind) for kind in CILIUM_KINDS):
        return
    for kind in CILIUM_GROUP_KINDS:
        yield from cluster.all(kind)
    for service in cluster.all(Service):
        yield Service(_meta(service), ServiceSpec(selector=service.spec.selector))
        if not service.spec.selector:
            yield from cluster.slices_by_service.get(service.key, ())


def _meta(obj: Resource) -> ObjectMeta:
    return ObjectMeta(name=obj.name, namespace=obj.namespace, labels=obj.labels)


def _pod(pod: Pod) -> Pod:
    """Return a pod with the fields that policies read."""
    containers = tuple(
        Container(container.name, ports=container.ports)
        for container in pod.spec.long_running_containers
    )
    return Pod(
        _meta(pod),
        PodSpec(
            containers,
            node_name=pod.spec.node_name,
            host_network=pod.spec.host_network,
            service_account=pod.spec.service_account,
            service_account_name=pod.spec.service_account_name,
        ),
        PodStatus(pod.status.phase, pod_ips=pod.status.pod_ips),
    )


def read_policy_objects(reply: PolicyReply) -> PolicyObjects:
    """Return the objects in a reply of the API."""
    types = {kind.kind: kind for kind in _KINDS}
    objects: dict[type[Resource], dict[ObjectKey, Resource]] = {}
    sources = {}
    for entry in reply["objects"]:
        if (kind := types.get(entry["kind"])) is None:
            continue  # of a later version
        value = msgspec.convert(entry["object"], kind)
        objects.setdefault(kind, {})[value.key] = value
        if entry["source"] is not None:
            source = msgspec.convert(entry["source"], DocumentSource)
            sources[value.kind, value.full_name] = source
    return PolicyObjects(
        Cluster.of(objects, {}, 0),
        sources,
        frozenset(reply["enforced"]),
        tuple(reply["local_ranges"]),
    )
