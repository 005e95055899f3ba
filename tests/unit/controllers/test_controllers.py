"""Controllers together: nodes, pods, scheduling, addresses, endpoints and statuses."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import Event, Namespace, Node, Service
from kubenetlab.api.lab import Attachment, PodRuntimeStatus
from kubenetlab.api.render import render
from kubenetlab.controllers.cluster.garbage import KEPT_FRACTION, MIN_EVENTS
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.controllers.support.events import event
from kubenetlab.controllers.support.naming import ALPHABET
from kubenetlab.controllers.support.termination import deletion_changes
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
    """Names are those of kind; the control plane is tainted because there are workers."""
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


def test_adding_and_removing_nodes_leaves_the_others_unchanged() -> None:
    """A remaining node keeps address and range; a new one gets free ones."""
    config = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker, name: %s}, {role: "
        "worker, name: %s}]\n"
    )
    cluster = applied(store(config % ("a", "b")), config % ("b", "c"))
    assert {node.name: (node.addresses[0], node.spec.pod_cidr) for node in cluster.all(Node)} == {
        "control-plane": ("172.18.0.2", "10.244.0.0/24"),
        "b": ("172.18.0.4", "10.244.2.0/24"),
        "c": ("172.18.0.3", "10.244.1.0/24"),
    }


def test_without_a_pod_network_nodes_are_not_ready() -> None:
    """The reason is KubeletNotReady; ordinary pods stay Pending, hostNetwork pods run."""
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
        "0/3 nodes are available: 1 node(s) had untolerated taint "
        "{node-role.kubernetes.io/control-plane: }, 2"
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


def test_generated_names_have_kubernetes_form_and_are_reproducible() -> None:
    """Deployment → ReplicaSet `web-<hash>` → pods `web-<hash>-<five letters>`."""
    first, second = store(deployment()), store(deployment())
    assert [pod.name for pod in web_pods(first)] == [pod.name for pod in web_pods(second)]
    (replica_set,) = [obj for obj in first.all(ReplicaSet) if obj.namespace == "default"]
    prefix, hashed = replica_set.name.split("-")
    assert prefix == "web"
    assert replica_set.labels["pod-template-hash"] == hashed
    for obj in web_pods(first):
        assert obj.name.startswith(f"{replica_set.name}-")
        suffix = obj.name.removeprefix(f"{replica_set.name}-")
        assert len(suffix) == 5
        assert set(suffix + hashed) <= set(ALPHABET)


def test_a_deleted_pod_is_replaced_by_a_new_one() -> None:
    """The new pod has another name and uid, and not the same address at once."""
    cluster = running(store(deployment()))
    old = web_pods(cluster)[0]
    after = running(settled(cluster.with_changes(deletion_changes(old, NOW)), NOW))
    new = [
        pod for pod in web_pods(after) if pod.name not in {pod.name for pod in web_pods(cluster)}
    ]
    assert len(web_pods(after)) == 3
    assert len(new) == 1
    assert new[0].addresses
    assert new[0].addresses != old.addresses


@pytest.mark.parametrize("replicas", [0, 1, 5])
def test_scaling_changes_only_the_difference(replicas: int) -> None:
    """The remaining pods keep name and address."""
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


def test_scaling_down_deletes_unready_pods_first() -> None:
    """Pods that are unscheduled, not running or not ready are deleted first."""
    cluster = running(store(deployment()))
    sick = web_pods(cluster)[1]
    cluster = settled(cluster.with_changes([observed(sick, ready=False)]))
    after = applied(cluster, deployment(replicas=2))
    assert sick.name not in {pod.name for pod in web_pods(after)}


def test_old_pods_are_removed_as_new_pods_become_ready() -> None:
    """The old ReplicaSet is scaled down step by step."""
    cluster = running(store(deployment()))
    changed = applied(cluster, deployment().replace("agnhost", "nginx"))
    assert len(web_pods(changed)) == 4
    after = running(running(running(changed)))
    assert [pod.spec.containers[0].image for pod in web_pods(after)] == ["nginx"] * 3
    web = after.get(Deployment, "default", "web")
    assert web is not None
    assert web.status.ready_replicas == 3


def test_deleting_a_deployment_deletes_its_replica_sets_and_pods() -> None:
    """Their addresses become free."""
    cluster = running(store(deployment() + service()))
    web = cluster.get(Deployment, "default", "web")
    assert web is not None
    after = settled(cluster.with_changes(deletion_changes(web, NOW)))
    after = settled(
        after.with_changes(
            structs.replace(runtime, is_detached=True) for runtime in after.all(PodRuntimeStatus)
        )
    )
    assert not after.select("default", {"app": "web"})
    assert not [web for web in after.all(Attachment) if web.namespace == "default"]
    assert [len(slice_.endpoints) for slice_ in slices(after)] == [0]


# --- scheduling and addresses ---


def test_pods_are_spread_evenly() -> None:
    """They are spread over the feasible nodes, by owner first."""
    places = Counter(pod.spec.node_name for pod in web_pods(store(deployment(replicas=10))))
    assert places == {"worker": 5, "worker2": 5}


@pytest.mark.parametrize(
    ("spec", "node", "message"),
    [
        (", nodeSelector: {disktype: ssd}", "worker2", ""),
        (
            ", nodeSelector: {disktype: tape}",
            "",
            (
                "1 node(s) had untolerated taint "
                "{node-role.kubernetes.io/control-plane: }, "
                "2 node(s) didn't match Pod's node affinity/selector"
            ),
        ),
        (
            ", nodeSelector: {kubernetes.io/hostname: control-plane}",
            "",
            "2 node(s) didn't match Pod's node affinity/selector",
        ),
        (
            (
                ", nodeSelector: {kubernetes.io/hostname: control-plane}, tolerations: "
                "[{operator: Exists}]"
            ),
            "control-plane",
            "",
        ),
        (", nodeName: control-plane", "control-plane", ""),
    ],
)
def test_the_scheduler_filters_nodes(spec: str, node: str, message: str) -> None:
    """Selectors, taints and tolerations decide; nodeName bypasses them; the event is upstream's."""
    config = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker}, {role: worker, labels: "
        "{disktype: ssd}}]\n---\n"
    )
    cluster = store(config + pod("a", spec))
    assert pod_named(cluster, "a").spec.node_name == node
    events = [event.message for event in cluster.all(Event) if event.reason == "FailedScheduling"]
    assert bool(events) == (not node)
    assert all(message in event_message for event_message in events)


def test_addresses_are_assigned_cyclically() -> None:
    """A released address is reused only after the whole range was used."""
    cluster = running(store(ONE_NODE + pod("first")))
    assert pod_named(cluster, "first").addresses == ("10.244.0.2",)
    after = settled(cluster.with_changes(deletion_changes(pod_named(cluster, "first"), NOW)))
    after = settled(
        after.with_changes(
            structs.replace(runtime, is_detached=True) for runtime in after.all(PodRuntimeStatus)
        )
    )
    assert pod_named(running(applied(after, pod("second"))), "second").addresses == ("10.244.0.5",)


def test_a_pod_without_a_free_address_stays_pending_with_an_event() -> None:
    """A node has 253 addresses; the waiting pod gets the first one that is released."""
    cluster = running(store(ONE_NODE + deployment(replicas=252)))
    waiting = [pod for pod in web_pods(cluster) if not pod.addresses]
    assert len(waiting) == 1
    (event,) = [event for event in cluster.all(Event) if event.reason == "FailedCreatePodSandBox"]
    assert event.message.endswith("no IP addresses available in range set: 10.244.0.1-10.244.0.254")
    assert event.count == 1
    victim = next(pod for pod in web_pods(cluster) if pod.addresses)
    after = settled(cluster.with_changes(deletion_changes(victim, NOW)))
    after = settled(after.with_changes([structs.replace(observed(victim), is_detached=True)]))
    assert victim.addresses[0] in {attachment.addresses[0] for attachment in after.all(Attachment)}


# --- the store ---


def test_the_controllers_come_to_rest() -> None:
    """A second run changes nothing, not even the order."""
    cluster = running(store(deployment(replicas=20) + service() + pod("a")))
    assert controllers.settle(cluster, NOW) is cluster


def test_documents_show_the_api_servers_defaults() -> None:
    """These are phase, type, protocol and counts; documents do not share them."""
    cluster = store(pod("a") + "---\n" + pod("b") + "---\n" + service())
    first, second = (render(cluster, pod_named(cluster, name)) for name in "ab")
    assert (first["status"]["phase"], first["spec"]["restartPolicy"]) == ("Pending", "Always")
    first["status"]["phase"] = "changed"
    assert (
        second["status"]["phase"]
        == render(cluster, pod_named(cluster, "a"))["status"]["phase"]
        == "Pending"
    )
    document = render(cluster, next(obj for obj in cluster.all(Service) if obj.name == "web"))
    assert (document["spec"]["type"], document["spec"]["ports"][0]["protocol"]) == (
        "ClusterIP",
        "TCP",
    )


def test_a_pod_bound_to_a_missing_node_stays_pending() -> None:
    """Its ReplicaSet creates it once, not repeatedly."""
    cluster = store(deployment("web", 2, nodeName="nowhere"))
    assert [(pod.status.phase, pod.spec.node_name) for pod in web_pods(cluster)] == [
        ("Pending", "nowhere")
    ] * 2


def test_a_recreated_object_has_another_uid() -> None:
    """Children of the old object are therefore not taken for children of the new one."""
    cluster = running(store(deployment("web", 2) + service()))
    (old,) = cluster.all(ReplicaSet)[-1:]
    (slice_,) = slices(cluster)
    without = settled(
        cluster.with_changes([*deletion_changes(old, NOW), *deletion_changes(slice_, NOW)])
    )
    assert without.get(ReplicaSet, "default", old.name).uid != old.uid  # type: ignore[union-attr]
    assert slices(without)[0].uid != slice_.uid


def test_a_replica_set_adopts_matching_pods_without_owner() -> None:
    """They count as its own, and surplus ones are deleted."""
    orphans = "".join(pod(name, meta=", labels: {app: web}") for name in ("a", "b"))
    replica_set = deployment("web", 3).replace("kind: Deployment", "kind: ReplicaSet")
    cluster = applied(store(orphans), replica_set)
    assert {"a", "b"} < {pod_.name for pod_ in web_pods(cluster)}
    assert len(web_pods(cluster)) == 3
    assert all(pod_.metadata.owner_references[0].kind == "ReplicaSet" for pod_ in web_pods(cluster))
    fewer = applied(cluster, replica_set.replace("replicas: 3", "replicas: 1"))
    assert len(web_pods(fewer)) == 1


def test_events_expire_after_an_hour() -> None:
    """The store does not grow without limit."""
    cluster = running(store(deployment()))
    assert cluster.all(Event)
    assert not settled(cluster, NOW + 3601).all(Event)


def test_the_number_of_events_is_limited() -> None:
    """The oldest are deleted, more than necessary, so that not every new event needs a purge."""
    cluster = running(store(deployment()))
    web = next(iter(cluster.all(Deployment)))
    for number in range(MIN_EVENTS + 1):
        cluster = cluster.with_changes(
            [event(cluster, web, "Normal", "Churn", f"number {number}", "test", NOW + number / 10)]
        )
    after = settled(cluster, NOW + MIN_EVENTS / 10)
    assert len(after.all(Event)) == KEPT_FRACTION * MIN_EVENTS
    messages = {event_.message for event_ in after.all(Event)}
    assert f"number {MIN_EVENTS}" in messages
    assert "number 0" not in messages
    assert settled(after, NOW + MIN_EVENTS / 10 + 1).all(Event) == after.all(Event)


def test_many_pods_are_created_and_deleted_in_batches() -> None:
    """A running agent answers clients in between; the resulting pods are the same."""
    start = applied(store(deployment("web", 2)), deployment("web", 10))
    expected = {pod_.name for pod_ in web_pods(start)}
    cluster = store(deployment("web", 2))
    states = ControllerStates(batch_limit=3)
    cluster, states = controllers.run(cluster, states, NOW)
    for target, counts in ((10, [5, 8, 10, 10]), (1, [7, 4, 1, 1])):
        web = cluster.get(Deployment, "default", "web")
        assert web is not None
        cluster = cluster.with_changes(
            [structs.replace(web, spec=structs.replace(web.spec, replicas=target))]
        )
        for count in counts:
            cluster, states = controllers.run(cluster, states, NOW)
            pods = [pod_ for pod_ in web_pods(cluster) if not pod_.is_terminating]
            assert len(pods) == count
            assert count == target or states.wake_at == NOW
        if target == 10:
            assert {pod_.name for pod_ in pods} == expected


def test_generated_names_have_kubernetes_length() -> None:
    """The base has at most 58 characters, the suffix five."""
    (pod_, *_) = store(deployment("w" * 60, 1)).select("default", {"app": "w" * 60})
    assert len(pod_.name) == 63


def test_documents_are_deleted_with_their_objects() -> None:
    """A namespace's deletion removes the documents of all objects in it, of any kind."""
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n" + "".join(
        f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: x, namespace: {namespace}}}\n---\n"
        for kind in ("ConfigMap", "Secret")
        for namespace in ("a", "b")
    )
    cluster = store(text + pod("p", meta=", namespace: a"))
    kept = {key for key in cluster.given if key[0] != "Cluster"}
    namespace = next(obj for obj in cluster.all(Namespace) if obj.name == "a")
    without = settled(settled(cluster.with_changes(deletion_changes(namespace, NOW))))
    assert kept - set(without.given) == {
        ("Namespace", "", "a"),
        ("ConfigMap", "a", "x"),
        ("Secret", "a", "x"),
        ("Pod", "a", "p"),
    }


def test_shown_documents_reflect_the_stored_object() -> None:
    """Covers changed defaults, nulls, and unknown fields inside lists."""
    more = (
        "        env: [{name: A, value: null}]\n"
        "        resources: {limits: {cpu: 1}}\n        volumeMounts: null\n"
        "        image"
    )
    text = deployment("web", 3).replace("        image", more)
    cluster = store(text)
    web = cluster.get(Deployment, "default", "web")
    assert web is not None
    scaled = cluster.with_changes(
        [structs.replace(web, spec=structs.replace(web.spec, replicas=1))]
    )
    shown = render(scaled, scaled.all(Deployment)[-1])
    (container,) = shown["spec"]["template"]["spec"]["containers"]
    assert shown["spec"]["replicas"] == 1
    assert container["resources"] == {"limits": {"cpu": 1}}
    assert "volumeMounts" not in container
    assert container["env"] == [{"name": "A"}]


def test_a_terminating_namespace_accepts_no_new_objects() -> None:
    """Existing objects may still change while one of its pods exists."""
    inside = pod("a", meta=", namespace: going")
    cluster = running(store(inside))
    namespace = next(obj for obj in cluster.all(Namespace) if obj.name == "going")
    terminating = settled(cluster.with_changes(deletion_changes(namespace, NOW)))
    assert pod_named(terminating, "a", "going").is_terminating
    with pytest.raises(
        ManifestError,
        match="unable to create new content in namespace going because it is being terminated",
    ):
        applied(terminating, inside.replace("name: a,", "name: b,"))
