"""The fault ipam in plans: pods that have the addresses of others."""

from __future__ import annotations

from typing import Literal, TypeGuard

import pytest

from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import Attachment
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath import faults, plan
from kubenetlab.datapath.identities import cluster_pods
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import UsageError
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.cilium_objects import CiliumEndpoint
from kubenetlab.lab.agent.status_reports import replaced_sandboxes
from tests.clusters import (
    NOW,
    decided,
    pod,
    running,
    settled,
    store,
)
from tests.unit.datapath.test_faults import DECISIONS

IN_EVERY_MODE = (
    "bridge",
    "ptp",
    "flannel",
    "kube-router",
    "calico",
    "{type: calico, backend: vxlan}",
    "{type: calico, backend: ipip, crossSubnet: true}",
    "weave",
    "cilium",
    "{type: cilium, routingMode: native}",
)


def with_pods(cni: str) -> Cluster:
    """Return a cluster with the pods a and b on one node, and c on another one."""
    pods = "".join(
        "---\n" + pod(name, f", nodeName: {node}")
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    return running(
        store(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            f"networking: {{ipFamily: dual, cni: {cni}}}\n{pods}"
        )
    )


def sharing(cluster: Cluster, owner: str, other: str) -> Cluster:
    """Return the cluster in which a pod has got the addresses of another one."""
    options = {"pod": owner, "with": other}
    cluster = settled(cluster.with_changes(faults.break_changes(cluster, "ipam", options, NOW)))
    return with_new_sandboxes(cluster)


def with_new_sandboxes(cluster: Cluster) -> Cluster:
    """Return the cluster after the agent has removed the sandboxes of stale attachments."""
    return settled(cluster.with_changes(replaced_sandboxes(cluster, ())))


def addresses_of(cluster: Cluster, name: str) -> tuple[str, ...]:
    attachment = cluster.get(Attachment, "default", name)
    assert attachment is not None
    return attachment.addresses


@pytest.mark.parametrize("neighbors", ["dynamic", "permanent"])
@pytest.mark.parametrize("other", ["b", "c"])
@pytest.mark.parametrize("cni", IN_EVERY_MODE)
def test_two_pods_with_one_address_have_a_plan(
    cni: str, other: str, neighbors: Literal["dynamic", "permanent"]
) -> None:
    """Both have the address; their links differ, and healing restores the plan."""
    decisions = decided("onlink", neighbors)
    before = with_pods(cni)
    after = sharing(before, "a", other)
    shared = addresses_of(before, "a")
    assert addresses_of(after, "a") == addresses_of(after, other) == shared
    desired = plan(after, decisions)
    for name in ("a", other):
        (netns,) = (netns for netns in desired.namespaces if f"/default/{name}/" in netns)
        own = {obj.address.partition("/")[0] for obj in desired[netns].values() if is_address(obj)}
        assert set(shared) <= own
    macs = [obj.mac for obj in desired.objects() if isinstance(obj, Veth)]
    assert len(set(macs)) == len(macs)
    after = after.with_changes(deletion(fault) for fault in after.all(Fault))
    after = with_new_sandboxes(settled(after))
    assert addresses_of(after, "a") == shared
    assert not set(addresses_of(after, other)) & set(shared)
    assert not [
        attachment
        for attachment in after.all(Attachment)
        if attachment.duplicate_of or attachment.superseded_by
    ]


def is_address(obj: object) -> TypeGuard[Address]:
    return isinstance(obj, Address)


@pytest.mark.parametrize("cni", ["ptp", "calico", "cilium"])
def test_the_route_of_the_last_pod_replaces_the_one_before(cni: str) -> None:
    """As with `ip route replace`; `diff` compares with addresses that a healthy IPAM assigns."""
    after = sharing(with_pods(cni), "a", "b")
    (address, _) = addresses_of(after, "a")
    links = {attachment.name: attachment.host_ifname for attachment in after.all(Attachment)}
    objects = plan(after, DECISIONS)["node/worker"].values()
    (owner,) = (
        obj.link
        for obj in objects
        if (isinstance(obj, Route) and obj.destination == f"{address}/32")
        or (isinstance(obj, CiliumEndpoint) and address in obj.addresses)
    )
    assert owner == links["b"]
    healthy = faults.healed(after)
    assert addresses_of(healthy, "a") == addresses_of(after, "a")
    assert address not in addresses_of(healthy, "b")


def test_a_fault_is_deleted_with_either_of_its_pods() -> None:
    """The other pod gets an address of its own; its own one stays that of the owner."""
    for gone, left in (("a", "b"), ("b", "a")):
        after = sharing(with_pods("bridge"), "a", "b")
        removed = after.get(Pod, "default", gone)
        assert removed is not None
        after = with_new_sandboxes(settled(after.with_changes([deletion(removed)])))
        assert not after.all(Fault)
        attachment = after.get(Attachment, "default", left)
        assert attachment is not None
        assert (attachment.duplicate_of, attachment.superseded_by) == ("", "")


def test_nodes_know_one_pod_of_each_address_while_the_fault_ends() -> None:
    """The entry of a pod that is gone is not removed after that of its successor is set."""
    shared = sharing(with_pods("cilium"), "a", "b")
    removed = shared.get(Pod, "default", "b")
    assert removed is not None
    terminating = shared.with_changes(deletion_changes(removed, NOW))
    healing = shared.with_changes(deletion(fault) for fault in shared.all(Fault))
    for cluster in (shared, settled(terminating), settled(healing)):
        pods = cluster_pods(cluster, PlanCache()).values()
        addresses = [address for pod in pods for address in pod.addresses]
        assert len(addresses) == len(set(addresses))
    assert "a" in [pod.name for pod in cluster_pods(settled(terminating), PlanCache()).values()]


@pytest.mark.parametrize(
    ("cni", "options", "message"),
    [
        ("bridge", {"pod": "a", "with": "x"}, 'with: there is no pod "default/x"'),
        ("bridge", {"pod": "default/aa", "with": "b"}, "did you mean default/a"),
        ("bridge", {"pod": "a", "with": "default/a"}, "the same pod default/a; expected two pods"),
        ("bridge", {"pod": "a"}, "with"),
        ("bridge", {"pod": "a", "with": "kube-system/*"}, "in the network of its node"),
        ("conflist", {"pod": "a", "with": "b"}, "the plugins assign addresses, and not the lab"),
    ],
)
def test_pods_that_cannot_share_an_address_are_refused(
    cni: str, options: dict[str, str], message: str
) -> None:
    """The message names the option and the pod."""
    cluster = with_pods(cni)
    if "*" in options.get("with", ""):
        hosts = (pod.full_name for pod in cluster.all(Pod) if pod.spec.host_network)
        options = {**options, "with": next(hosts)}
    with pytest.raises(UsageError) as refused:
        faults.break_changes(cluster, "ipam", options, NOW)
    assert message in str(refused.value)


def test_a_pod_shares_its_address_once() -> None:
    """Two faults of the same pod would contradict each other."""
    after = sharing(with_pods("bridge"), "a", "b")
    for options in ({"pod": "b", "with": "c"}, {"pod": "c", "with": "a"}):
        with pytest.raises(UsageError, match="shares its address with pod default/"):
            faults.break_changes(after, "ipam", options, NOW)
