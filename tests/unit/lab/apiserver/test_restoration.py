"""Restoration: a store gets back the objects of an earlier one, whatever users did meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from msgspec import structs

from kubenetlab.api.apps import Deployment
from kubenetlab.api.core import Namespace, Service
from kubenetlab.api.faults import Fault, FaultSpec
from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.lab.apiserver.restoration import KINDS, Restoration, restore
from tests.clusters import NOW, applied, deployment, pod, service, settled, store

R = TypeVar("R", bound=Resource)
POLICY = """---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
"""
FORMER = store(deployment(replicas=2) + service() + pod("client"))


def the(cluster: Cluster, kind: type[R], name: str, namespace: str = "default") -> R:
    obj = cluster.get(kind, namespace, name)
    assert obj is not None
    return obj


def without(kind: type[Resource], name: str) -> Callable[[Cluster], Cluster]:
    return lambda cluster: cluster.with_changes([deletion(the(cluster, kind, name))])


def scaled(cluster: Cluster) -> Cluster:
    web = the(cluster, Deployment, "web")
    return settled(
        cluster.with_changes([structs.replace(web, spec=structs.replace(web.spec, replicas=7))])
    )


def broken(cluster: Cluster) -> Cluster:
    return cluster.with_changes([Fault(ObjectMeta(name="1"), FaultSpec(fault="kube-proxy"))])


def relabelled(cluster: Cluster) -> Cluster:
    client = the(cluster, Pod, "client")
    meta = structs.replace(client.metadata, labels={"app": "other"})
    return cluster.with_changes([structs.replace(client, metadata=meta)])


NODE = "---\napiVersion: v1\nkind: Node\nmetadata: {name: worker, labels: {zone: b}}\n"
CHANGES: dict[str, Callable[[Cluster], Cluster]] = {
    "nothing": lambda cluster: cluster,
    "a policy": lambda cluster: applied(cluster, POLICY),
    "a document without effect": lambda cluster: applied(
        cluster, "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: a}\n"
    ),
    "replicas": scaled,
    "labels of a pod": relabelled,
    "a fault": broken,
    "a deleted Service": without(Service, "web"),
    "a deleted Deployment": without(Deployment, "web"),
    "a deleted pod": without(Pod, "client"),
    "settings of a node": lambda cluster: applied(cluster, NODE),
}


def contents(cluster: Cluster) -> object:
    """Return what users gave, without identities and versions."""
    fields = [
        (kind.kind, obj.key, obj.labels, getattr(obj, "spec", None))
        for kind in KINDS
        for obj in sorted(cluster.all(kind), key=lambda obj: obj.key)
        if not obj.metadata.owner_references
    ]
    return fields, sorted(cluster.given.items())


def restored(cluster: Cluster) -> Restoration:
    return restore(cluster, FORMER, NOW + 60)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_undone(change: Callable[[Cluster], Cluster]) -> None:
    """At once, and a second call changes nothing."""
    result = restored(change(FORMER))
    assert result.pending == ()
    assert contents(result.cluster) == contents(FORMER)
    again = restored(settled(result.cluster))
    assert (again.cluster.revision, again.pending) == (settled(result.cluster).revision, ())


def test_objects_that_still_exist_keep_identity_and_status() -> None:
    changed = scaled(FORMER)
    before, after = (
        the(changed, Deployment, "web"),
        the(restored(changed).cluster, Deployment, "web"),
    )
    assert (after.metadata.uid, after.status) == (before.metadata.uid, before.status)
    assert after.metadata.generation == before.metadata.generation + 1


def test_a_service_gets_its_address_back() -> None:
    cluster = restored(without(Service, "web")(FORMER)).cluster
    assert the(cluster, Service, "web").cluster_ips == the(FORMER, Service, "web").cluster_ips


def test_a_pod_that_is_created_again_starts_anew() -> None:
    """On its former node, with a new identity."""
    former, again = (
        the(cluster, Pod, "client")
        for cluster in (FORMER, restored(without(Pod, "client")(FORMER)).cluster)
    )
    assert again.spec == former.spec
    assert again.metadata.uid != former.metadata.uid
    assert again.status == Pod(former.metadata, former.spec).status


def test_pods_that_controllers_own_are_left_to_them() -> None:
    """The Deployment replaces a deleted pod, and no restoration deletes the new one."""
    (first, *_) = FORMER.select("default", {"app": "web"})
    changed = settled(FORMER.with_changes([deletion(first)]))
    assert restored(changed).cluster.revision == changed.revision


def test_pods_and_namespaces_are_deleted_gracefully() -> None:
    """They are pending until they are gone."""
    changed = applied(FORMER, pod("extra", meta=", namespace: shop"))
    result = restored(changed)
    assert result.pending == ("Namespace shop", "Pod shop/extra")
    assert the(result.cluster, Namespace, "shop", "").is_terminating
    gone = result.cluster.with_changes(
        [
            deletion(the(result.cluster, Pod, "extra", "shop")),
            deletion(the(result.cluster, Namespace, "shop", "")),
        ]
    )
    assert restored(gone).pending == ()
    assert contents(restored(gone).cluster) == contents(FORMER)


def test_a_replaced_pod_with_other_containers_is_replaced_again() -> None:
    """Containers cannot be changed back: the new pod must be gone first."""
    changed = without(Pod, "client")(FORMER)
    changed = applied(changed, pod("client", container=", workingDir: /tmp"))
    result = restored(changed)
    assert result.pending == ("Pod default/client",)
    gone = without(Pod, "client")(result.cluster)
    assert contents(restored(gone).cluster) == contents(FORMER)


def test_a_pod_that_is_being_deleted_is_pending() -> None:
    client = the(FORMER, Pod, "client")
    changed = FORMER.with_changes(deletion_changes(client, NOW))
    assert restored(changed).pending == ("Pod default/client",)


def test_the_former_cluster_document_returns() -> None:
    changed = FORMER.with_changes([structs.replace(FORMER.config, external=())])
    assert restored(changed).cluster.config.external == FORMER.config.external


def test_a_policy_that_was_deleted_returns() -> None:
    former = applied(FORMER, POLICY)
    changed = former.with_changes([deletion(the(former, NetworkPolicy, "deny"))])
    result = restore(changed, former, NOW)
    assert contents(result.cluster) == contents(former)
    assert the(result.cluster, NetworkPolicy, "deny")


def test_settings_of_a_node_return() -> None:
    former = applied(FORMER, NODE)
    changed = former.with_changes([deletion(the(former, NodeSettings, "worker", ""))])
    assert contents(restore(changed, former, NOW).cluster) == contents(former)
