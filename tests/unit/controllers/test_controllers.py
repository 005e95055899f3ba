"""What Kubernetes adds: nodes, pods, places, addresses, endpoints, statuses."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import Event, Namespace, Node, Service
from kubenetlab.api.lab import Attachment, PodRuntimeStatus
from kubenetlab.api.render import render
from kubenetlab.controllers import Controllers
from kubenetlab.controllers.events import event
from kubenetlab.controllers.garbage import KEPT_FRACTION, MIN_EVENTS
from kubenetlab.controllers.naming import ALPHABET
from kubenetlab.controllers.termination import terminated
from kubenetlab.errors import ManifestError
from tests.clusters import (
    NO_CNI,
    NOW,
    ONE_NODE,
    applied,
    deployment,
    observed,
    pod,
    pod_named,
    running,
    service,
    settled,
    slices,
    store,
    web_pods,
)

# --- nodes ---


def test_nodes_have_names_addresses_and_ranges_in_order() -> None:
    """As kind names them; the control plane is tainted because there are workers."""
    nodes = store().all(Node)
    assert [(node.name, node.addresses[0], node.spec.pod_cidr) for node in nodes] == [
        ("control-plane", "172.18.0.2", "10.244.0.0/24"),
        ("worker", "172.18.0.3", "10.244.1.0/24"),
        ("worker2", "172.18.0.4", "10.244.2.0/24"),
    ]
    assert [[taint.key for taint in node.spec.taints] for node in nodes] == [
        ["node-role.kubernetes.io/control-plane"],
        [],
        [],
    ]
    assert not store(ONE_NODE).all(Node)[0].spec.taints


def test_nodes_that_come_and_go_leave_the_others_alone() -> None:
    """A node that stays keeps address and range; a new one gets free ones."""
    config = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}, {role: worker, name: %s}, {role: worker, name: %s}]\n"
    cluster = applied(store(config % ("a", "b")), config % ("b", "c"))
    assert {node.name: (node.addresses[0], node.spec.pod_cidr) for node in cluster.all(Node)} == {
        "control-plane": ("172.18.0.2", "10.244.0.0/24"),
        "b": ("172.18.0.4", "10.244.2.0/24"),
        "c": ("172.18.0.3", "10.244.1.0/24"),
    }


def test_without_a_network_nodes_are_not_ready_for_the_real_reason() -> None:
    """KubeletNotReady, in the kubelet's words; ordinary pods stay Pending, hostNetwork pods run."""
    cluster = running(
        store(
            NO_CNI
            + pod("web")
            + pod("host", ", hostNetwork: true")
            + pod("bound", ", nodeName: worker")
        ),
        only=["host"],
    )
    for node in cluster.all(Node):
        (ready,) = node.status.conditions
        assert (ready.status, ready.reason) == ("False", "KubeletNotReady")
        assert ready.message.endswith("cni plugin not initialized")
    assert pod_named(cluster, "host").is_ready
    assert pod_named(cluster, "host").addresses == cluster.all(Node)[2].addresses
    assert (pod_named(cluster, "web").status.phase, pod_named(cluster, "web").spec.node_name) == (
        "Pending",
        "",
    )
    bound = pod_named(cluster, "bound")
    assert bound.status.container_statuses[0].state.waiting is not None
    assert bound.status.container_statuses[0].state.waiting.reason == "ContainerCreating"
    messages = {
        (event.involved_object.name, event.reason): event.message for event in cluster.all(Event)
    }
    assert messages["web", "FailedScheduling"].startswith(
        "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2"
    )
    assert messages["bound", "NetworkNotReady"].startswith(
        "network is not ready: container runtime network not ready"
    )


def test_installing_a_network_makes_nodes_and_pods_ready() -> None:
    """The CNI mode may change from none while the lab is up."""
    cluster = running(
        applied(
            running(store(NO_CNI + pod("web"))),
            NO_CNI.replace("cni: none", "cni: bridge").removesuffix("---\n"),
        )
    )
    assert all(node.is_ready for node in cluster.all(Node))
    assert pod_named(cluster, "web").is_ready


# --- workloads ---


def test_pods_are_named_as_kubernetes_names_them_and_always_alike() -> None:
    """Deployment → ReplicaSet `web-<hash>` → pods `web-<hash>-<five letters>`."""
    first, second = store(deployment()), store(deployment())
    assert [pod.name for pod in web_pods(first)] == [pod.name for pod in web_pods(second)]
    (replica_set,) = [found for found in first.all(ReplicaSet) if found.namespace == "default"]
    prefix, hashed = replica_set.name.split("-")
    assert prefix == "web"
    assert replica_set.labels["pod-template-hash"] == hashed
    for found in web_pods(first):
        assert found.name.startswith(f"{replica_set.name}-")
        suffix = found.name.removeprefix(f"{replica_set.name}-")
        assert len(suffix) == 5
        assert set(suffix + hashed) <= set(ALPHABET)


def test_a_pod_that_goes_is_replaced_by_another() -> None:
    """A replaced pod is a new pod: a new name, a new uid, and not the same address at once."""
    cluster = running(store(deployment()))
    old = web_pods(cluster)[0]
    after = running(settled(cluster.with_changes(terminated(old, NOW)), NOW))
    new = [
        pod for pod in web_pods(after) if pod.name not in {pod.name for pod in web_pods(cluster)}
    ]
    assert len(web_pods(after)) == 3
    assert len(new) == 1
    assert new[0].addresses
    assert new[0].addresses != old.addresses


@pytest.mark.parametrize("replicas", [0, 1, 5])
def test_scaling_changes_only_the_difference(replicas: int) -> None:
    """Those that stay keep name and address."""
    cluster = running(store(deployment()))
    before = {pod.name: pod.addresses for pod in web_pods(cluster)}
    after = {
        pod.name: pod.addresses
        for pod in web_pods(running(applied(cluster, deployment(replicas=replicas))))
    }
    assert len(after) == replicas
    kept = before.keys() & after.keys()
    assert len(kept) == min(3, replicas)
    assert all(before[name] == after[name] for name in kept)


def test_scaling_down_takes_what_is_not_ready_first() -> None:
    """Ranking of pods for removal: unscheduled, not running, not ready come first."""
    cluster = running(store(deployment()))
    sick = web_pods(cluster)[1]
    cluster = settled(cluster.with_changes([observed(sick, ready=False)]))
    after = applied(cluster, deployment(replicas=2))
    assert sick.name not in {pod.name for pod in web_pods(after)}


def test_a_new_template_is_rolled_out_before_the_old_pods_go() -> None:
    """The old ReplicaSet is scaled down as the new pods become ready."""
    cluster = running(store(deployment()))
    changed = applied(cluster, deployment().replace("agnhost", "nginx"))
    assert len(web_pods(changed)) == 4
    after = running(running(running(changed)))
    assert [pod.spec.containers[0].image for pod in web_pods(after)] == ["nginx"] * 3
    found = after.get(Deployment, "default", "web")
    assert found is not None
    assert found.status.ready_replicas == 3


def test_deleting_a_deployment_takes_everything_along() -> None:
    """ReplicaSets and pods go with their owner; addresses become free."""
    cluster = running(store(deployment() + service()))
    found = cluster.get(Deployment, "default", "web")
    assert found is not None
    gone = settled(cluster.with_changes(terminated(found, NOW)))
    gone = settled(
        gone.with_changes(
            structs.replace(seen, is_detached=True) for seen in gone.all(PodRuntimeStatus)
        )
    )
    assert not gone.select("default", {"app": "web"})
    assert not [found for found in gone.all(Attachment) if found.namespace == "default"]
    assert [len(piece.endpoints) for piece in slices(gone)] == [0]


# --- places and addresses ---


def test_pods_are_spread_evenly() -> None:
    """Over the nodes that fit, by owner first."""
    places = Counter(pod.spec.node_name for pod in web_pods(store(deployment(replicas=10))))
    assert places == {"worker": 5, "worker2": 5}


@pytest.mark.parametrize(
    ("spec", "node", "message"),
    [
        (", nodeSelector: {disktype: ssd}", "worker2", ""),
        (", nodeSelector: {disktype: tape}", "", "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 node(s) didn't match Pod's node affinity/selector"),
        (", nodeSelector: {kubernetes.io/hostname: control-plane}", "", "2 node(s) didn't match Pod's node affinity/selector"),
        (", nodeSelector: {kubernetes.io/hostname: control-plane}, tolerations: [{operator: Exists}]", "control-plane", ""),
        (", nodeName: control-plane", "control-plane", ""),
    ],
)  # fmt: skip
def test_a_pod_goes_where_it_fits(spec: str, node: str, message: str) -> None:
    """Selectors, taints and tolerations decide; nodeName goes past them; what fits nowhere is told in the scheduler's words."""
    config = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}, {role: worker}, {role: worker, labels: {disktype: ssd}}]\n---\n"
    cluster = store(config + pod("a", spec))
    assert pod_named(cluster, "a").spec.node_name == node
    events = [event.message for event in cluster.all(Event) if event.reason == "FailedScheduling"]
    assert bool(events) == (not node)
    assert all(message in said for said in events)


def test_addresses_go_round() -> None:
    """What is freed is not given out again at once; the whole range is used before."""
    cluster = running(store(ONE_NODE + pod("first")))
    assert pod_named(cluster, "first").addresses == (
        "10.244.0.2",
    )  # the two of CoreDNS come behind it
    gone = settled(cluster.with_changes(terminated(pod_named(cluster, "first"), NOW)))
    gone = settled(
        gone.with_changes(
            structs.replace(seen, is_detached=True) for seen in gone.all(PodRuntimeStatus)
        )
    )
    assert pod_named(running(applied(gone, pod("second"))), "second").addresses == ("10.244.0.5",)


def test_an_exhausted_range_is_pending_with_an_event() -> None:
    """253 addresses a node; when one becomes free the waiting pod gets it."""
    cluster = running(store(ONE_NODE + deployment(replicas=252)))
    waiting = [pod for pod in web_pods(cluster) if not pod.addresses]
    assert len(waiting) == 1
    (event,) = [event for event in cluster.all(Event) if event.reason == "FailedCreatePodSandBox"]
    assert event.message.endswith("no IP addresses available in range set: 10.244.0.1-10.244.0.254")
    assert event.count == 1
    victim = next(pod for pod in web_pods(cluster) if pod.addresses)
    found = settled(cluster.with_changes(terminated(victim, NOW)))
    found = settled(found.with_changes([structs.replace(observed(victim), is_detached=True)]))
    assert victim.addresses[0] in {attachment.addresses[0] for attachment in found.all(Attachment)}


# --- the store ---


def test_the_controllers_come_to_rest() -> None:
    """A second run changes nothing, not even the order."""
    cluster = running(store(deployment(replicas=20) + service() + pod("a")))
    assert controllers.run(cluster, NOW)[0] is cluster


def test_documents_show_what_the_api_server_fills_in() -> None:
    """Phase, type, protocol, counts; and one document's are not another's."""
    cluster = store(pod("a") + "---\n" + pod("b") + "---\n" + service())
    first, second = (render(cluster, pod_named(cluster, name)) for name in "ab")
    assert (first["status"]["phase"], first["spec"]["restartPolicy"]) == ("Pending", "Always")
    first["status"]["phase"] = "changed"
    assert (
        second["status"]["phase"]
        == render(cluster, pod_named(cluster, "a"))["status"]["phase"]
        == "Pending"
    )
    found = render(cluster, next(obj for obj in cluster.all(Service) if obj.name == "web"))
    assert (found["spec"]["type"], found["spec"]["ports"][0]["protocol"]) == ("ClusterIP", "TCP")


def test_a_pod_for_a_node_that_is_not_there_stays_pending() -> None:
    """Its ReplicaSet makes it once, not again and again."""
    cluster = store(deployment("web", 2, nodeName="nowhere"))
    assert [(pod.status.phase, pod.spec.node_name) for pod in web_pods(cluster)] == [
        ("Pending", "nowhere")
    ] * 2


def test_successors_are_others() -> None:
    """A ReplicaSet, a slice of the same name have another uid, so nobody takes the old one's children for its own."""
    cluster = running(store(deployment("web", 2) + service()))
    (old,) = cluster.all(ReplicaSet)[-1:]
    (piece,) = slices(cluster)
    without = settled(cluster.with_changes([*terminated(old, NOW), *terminated(piece, NOW)]))
    assert without.get(ReplicaSet, "default", old.name).uid != old.uid  # type: ignore[union-attr]
    assert slices(without)[0].uid != piece.uid


def test_a_replica_set_adopts_what_nobody_owns() -> None:
    """Pods that its selector matches count as its own; too many of them go."""
    orphans = "".join(pod(name, meta=", labels: {app: web}") for name in ("a", "b"))
    replica_set = deployment("web", 3).replace("kind: Deployment", "kind: ReplicaSet")
    cluster = applied(store(orphans), replica_set)
    assert {"a", "b"} < {found.name for found in web_pods(cluster)}
    assert len(web_pods(cluster)) == 3
    assert all(
        found.metadata.owner_references[0].kind == "ReplicaSet" for found in web_pods(cluster)
    )
    fewer = applied(cluster, replica_set.replace("replicas: 3", "replicas: 1"))
    assert len(web_pods(fewer)) == 1


def test_events_end_after_an_hour() -> None:
    """The store does not grow for ever."""
    cluster = running(store(deployment()))
    assert cluster.all(Event)
    assert not settled(cluster, NOW + 3601).all(Event)


def test_events_have_a_ceiling() -> None:
    """The oldest go first, and some more than need to, so that not every new event costs an old one."""
    cluster = running(store(deployment()))
    web = next(iter(cluster.all(Deployment)))
    for number in range(MIN_EVENTS + 1):
        cluster = cluster.with_changes(
            [event(cluster, web, "Normal", "Churn", f"number {number}", "test", NOW + number / 10)]
        )
    after = settled(cluster, NOW + MIN_EVENTS / 10)
    assert len(after.all(Event)) == KEPT_FRACTION * MIN_EVENTS
    messages = {found.message for found in after.all(Event)}
    assert f"number {MIN_EVENTS}" in messages
    assert "number 0" not in messages
    assert settled(after, NOW + MIN_EVENTS / 10 + 1).all(Event) == after.all(Event)


def test_many_pods_come_and_go_in_bursts() -> None:
    """In a lab that runs, so that others are answered in between; the same pods come as all at once."""
    start = applied(store(deployment("web", 2)), deployment("web", 10))
    wanted = {found.name for found in web_pods(start)}
    cluster = store(deployment("web", 2))
    controllers = Controllers(burst=3)
    cluster, _ = controllers.run(cluster, NOW)
    for target, counts in ((10, [5, 8, 10, 10]), (1, [7, 4, 1, 1])):
        web = cluster.get(Deployment, "default", "web")
        assert web is not None
        cluster = cluster.with_changes(
            [structs.replace(web, spec=structs.replace(web.spec, replicas=target))]
        )
        for count in counts:
            cluster, wake_at = controllers.run(cluster, NOW)
            pods = [found for found in web_pods(cluster) if not found.is_terminating]
            assert len(pods) == count
            assert count == target or wake_at == NOW
        if target == 10:
            assert {found.name for found in pods} == wanted


def test_generated_names_are_as_long_as_kubernetes_makes_them() -> None:
    """58 characters and five."""
    (found, *_) = store(deployment("w" * 60, 1)).select("default", {"app": "w" * 60})
    assert len(found.name) == 63


def test_documents_go_with_their_objects() -> None:
    """And with a namespace all that was given in it, of whatever kind."""
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n" + "".join(
        f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: x, namespace: {namespace}}}\n---\n"
        for kind in ("ConfigMap", "Secret")
        for namespace in ("a", "b")
    )
    cluster = store(text + pod("p", meta=", namespace: a"))
    kept = {key for key in cluster.given if key[0] != "Cluster"}
    namespace = next(found for found in cluster.all(Namespace) if found.name == "a")
    without = settled(settled(cluster.with_changes(terminated(namespace, NOW))))
    assert kept - set(without.given) == {
        ("Namespace", "", "a"),
        ("ConfigMap", "a", "x"),
        ("Secret", "a", "x"),
        ("Pod", "a", "p"),
    }


def test_what_is_shown_is_what_is_so() -> None:
    """A default that was changed to, nulls, and what a user wrote inside lists that the lab does not know."""
    more = "        env: [{name: A, value: null}]\n        resources: {limits: {cpu: 1}}\n        volumeMounts: null\n        image"
    text = deployment("web", 3).replace("        image", more)
    cluster = store(text)
    found = cluster.get(Deployment, "default", "web")
    assert found is not None
    scaled = cluster.with_changes(
        [structs.replace(found, spec=structs.replace(found.spec, replicas=1))]
    )
    shown = render(scaled, scaled.all(Deployment)[-1])
    (container,) = shown["spec"]["template"]["spec"]["containers"]
    assert shown["spec"]["replicas"] == 1
    assert container["resources"] == {"limits": {"cpu": 1}}
    assert "volumeMounts" not in container
    assert container["env"] == [{"name": "A"}]


def test_a_namespace_that_goes_takes_in_nothing_new() -> None:
    """As long as a pod of it is still there; what is there already may go on."""
    inside = pod("a", meta=", namespace: going")
    cluster = running(store(inside))
    namespace = next(found for found in cluster.all(Namespace) if found.name == "going")
    going = settled(cluster.with_changes(terminated(namespace, NOW)))
    assert pod_named(going, "a", "going").is_terminating
    with pytest.raises(
        ManifestError,
        match="unable to create new content in namespace going because it is being terminated",
    ):
        applied(going, inside.replace("name: a,", "name: b,"))
