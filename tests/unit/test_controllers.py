"""What Kubernetes adds: nodes, pods, places, addresses, endpoints, statuses."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.core import Event, Namespace, Node, Service
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.lab import Attachment, ContainerReport, Observed, ProbeReport
from kubenetlab.api.pods import Pod
from kubenetlab.api.render import render
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.kubelet import back_off_s
from kubenetlab.controllers.naming import ALPHABET
from kubenetlab.controllers.termination import terminated
from kubenetlab.errors import ManifestError
from kubenetlab.lab.facts import program_report
from kubenetlab.names import pod_netns
from tests.clusters import NOW, ONE_NODE, applied, deployment, observed, pod_named, problems_of, report, running, service, settled, store

NO_CNI = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: none}\n---\n"


def pod(name: str, spec: str = "", meta: str = "", container: str = "") -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{meta}}}\nspec: {{containers: [{{name: main, image: agnhost, args: [netexec]{container}}}]{spec}}}\n---\n"


def web_pods(cluster: Cluster) -> list[Pod]:
    return [pod for pod in cluster.select("default", {"app": "web"}) if not pod.is_terminating]


def slices(cluster: Cluster, name: str = "web") -> list[EndpointSlice]:
    found = cluster.get(Service, "default", name)
    assert found is not None
    return list(cluster.slices_of(found))


def conditions(cluster: Cluster) -> dict[str, tuple[bool, bool, bool]]:
    """Pod → (ready, serving, terminating)"""
    found = {}
    for piece in slices(cluster):
        for endpoint in piece.endpoints:
            assert endpoint.target_ref is not None
            state = endpoint.conditions
            found[endpoint.target_ref.name] = (state.is_ready, state.is_serving, state.is_terminating)
    return found


# --- nodes ---


def test_nodes_have_names_addresses_and_ranges_in_order() -> None:
    """As kind names them; the control plane is tainted because there are workers."""
    nodes = store().all(Node)
    assert [(node.name, node.addresses[0], node.spec.pod_cidr) for node in nodes] == [
        ("control-plane", "172.18.0.2", "10.244.0.0/24"),
        ("worker", "172.18.0.3", "10.244.1.0/24"),
        ("worker2", "172.18.0.4", "10.244.2.0/24"),
    ]
    assert [[taint.key for taint in node.spec.taints] for node in nodes] == [["node-role.kubernetes.io/control-plane"], [], []]
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
    cluster = running(store(NO_CNI + pod("web") + pod("host", ", hostNetwork: true") + pod("bound", ", nodeName: worker")), only=["host"])
    for node in cluster.all(Node):
        (ready,) = node.status.conditions
        assert (ready.status, ready.reason) == ("False", "KubeletNotReady")
        assert ready.message.endswith("cni plugin not initialized")
    assert pod_named(cluster, "host").is_ready
    assert pod_named(cluster, "host").addresses == cluster.all(Node)[2].addresses
    assert (pod_named(cluster, "web").status.phase, pod_named(cluster, "web").spec.node_name) == ("Pending", "")
    bound = pod_named(cluster, "bound")
    assert bound.status.container_statuses[0].state.waiting is not None
    assert bound.status.container_statuses[0].state.waiting.reason == "ContainerCreating"
    messages = {(event.involved_object.name, event.reason): event.message for event in cluster.all(Event)}
    assert messages["web", "FailedScheduling"].startswith(
        "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2"
    )
    assert messages["bound", "NetworkNotReady"].startswith("network is not ready: container runtime network not ready")


def test_installing_a_network_makes_nodes_and_pods_ready() -> None:
    """The CNI mode may change from none while the lab is up."""
    cluster = running(applied(running(store(NO_CNI + pod("web"))), NO_CNI.replace("cni: none", "cni: bridge").removesuffix("---\n")))
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
    new = [pod for pod in web_pods(after) if pod.name not in {pod.name for pod in web_pods(cluster)}]
    assert len(web_pods(after)) == 3
    assert len(new) == 1
    assert new[0].addresses
    assert new[0].addresses != old.addresses


@pytest.mark.parametrize("replicas", [0, 1, 5])
def test_scaling_changes_only_the_difference(replicas: int) -> None:
    """Those that stay keep name and address."""
    cluster = running(store(deployment()))
    before = {pod.name: pod.addresses for pod in web_pods(cluster)}
    after = {pod.name: pod.addresses for pod in web_pods(running(applied(cluster, deployment(replicas=replicas))))}
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
    gone = settled(gone.with_changes(structs.replace(seen, is_detached=True) for seen in gone.all(Observed)))
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
    assert pod_named(cluster, "first").addresses == ("10.244.0.2",)  # the two of CoreDNS come behind it
    gone = settled(cluster.with_changes(terminated(pod_named(cluster, "first"), NOW)))
    gone = settled(gone.with_changes(structs.replace(seen, is_detached=True) for seen in gone.all(Observed)))
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


# --- endpoints ---


def test_endpoints_follow_readiness() -> None:
    """Not ready until a probe has said so; serving is readiness, ready is serving and not terminating."""
    cluster = running(store(deployment() + service()), ready=False)
    names = [pod.name for pod in web_pods(cluster)]
    assert conditions(cluster) == dict.fromkeys(names, (False, False, False))
    cluster = running(cluster)
    assert conditions(cluster) == dict.fromkeys(names, (True, True, False))
    cluster = settled(cluster.with_changes(terminated(web_pods(cluster)[0], NOW)))
    assert conditions(cluster)[names[0]] == (False, True, True)


def test_unready_addresses_are_published_when_asked_for() -> None:
    """publishNotReadyAddresses: ready whatever the probes say."""
    cluster = running(store(deployment(replicas=1) + service(publishNotReadyAddresses="true")), ready=False)
    assert list(conditions(cluster).values()) == [(True, False, False)]


def test_a_hundred_endpoints_a_slice() -> None:
    """More endpoints, more slices; names and labels as Kubernetes has them."""
    cluster = running(store(deployment(replicas=205) + service()))
    assert [len(piece.endpoints) for piece in slices(cluster)] == [100, 100, 5]
    for piece in slices(cluster):
        assert piece.labels["kubernetes.io/service-name"] == "web"
        assert piece.labels["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
        assert piece.ports[0].port == 8080


def test_a_named_port_is_resolved_pod_by_pod() -> None:
    """Pods may differ; one without the name is left out of that port."""
    text = "".join(
        pod(name, meta=", labels: {app: web}", container=f", ports: [{{name: {port}, containerPort: {number}}}]")
        for name, port, number in (("a", "http", 80), ("b", "http", 8080), ("c", "other", 90))
    )
    cluster = running(store(text + service()))
    assert sorted((port.port, len(piece.endpoints)) for piece in slices(cluster) for port in piece.ports) == [(80, 1), (8080, 1)]


def test_hand_made_slices_are_left_alone() -> None:
    """A Service without selector has only those that somebody wrote."""
    text = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [198.51.100.10]}]
"""
    assert [piece.name for piece in slices(store(text))] == ["by-hand"]


# --- statuses ---


def test_nothing_is_ready_because_it_was_created() -> None:
    """Sandbox, container and probe must each be seen."""
    cluster = store(pod("a"))
    assert pod_named(cluster, "a").status.phase == "Pending"
    found = pod_named(cluster, "a")
    seen = observed(found)
    steps = [structs.replace(seen, containers={}, probes={}), structs.replace(seen, probes={}), seen]
    phases = []
    for step in steps:
        cluster = settled(cluster.with_changes([step]))
        found = pod_named(cluster, "a")
        phases.append((found.status.phase, found.is_ready, found.addresses))
    assert phases == [("Pending", False, ("10.244.1.2",)), ("Running", False, ("10.244.1.2",)), ("Running", True, ("10.244.1.2",))]


def test_the_annotation_makes_a_pod_unready_on_purpose() -> None:
    """Its container is ready, the pod is not, and the reason says why."""
    cluster = running(store(pod("a", meta=', annotations: {kubenetlab.dev/ready: "false"}')))
    ready = pod_named(cluster, "a").status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "ReadinessGatesNotReady")
    assert pod_named(cluster, "a").status.container_statuses[0].ready


def test_a_container_that_crashes_is_started_again_after_a_while() -> None:
    """At once, then after 10, 20, 40 … seconds, with CrashLoopBackOff in between."""
    crashed = ContainerReport(0, "failed", 1, "listen tcp :80: bind: address already in use", NOW)
    cluster = report(running(store(pod("a"))), "a", crashed, now=NOW)
    status = pod_named(cluster, "a").status.container_statuses[0]
    assert (status.restart_count, status.state.waiting and status.state.waiting.reason) == (1, "ContainerCreating")
    cluster = report(cluster, "a", structs.replace(crashed, attempt=1, at=NOW + 1), now=NOW + 1)
    status = pod_named(cluster, "a").status.container_statuses[0]
    assert (status.restart_count, status.state.waiting and status.state.waiting.reason) == (1, "CrashLoopBackOff")
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.message == crashed.message
    again, wake_at = controllers.run(cluster, NOW + 5)
    assert (again, wake_at) == (cluster, NOW + 11)
    status = pod_named(settled(cluster, NOW + 11), "a").status.container_statuses[0]
    assert (status.restart_count, status.state.waiting and status.state.waiting.reason) == (2, "ContainerCreating")
    assert [back_off_s(restarts) for restarts in (0, 1, 2, 3, 6, 50)] == [0, 10, 20, 40, 300, 300]


@pytest.mark.parametrize(("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded"), ("OnFailure", 3, "Running"), ("Always", 0, "Running")])  # fmt: skip
def test_the_restart_policy_decides_how_a_pod_ends(policy: str, code: int, phase: str) -> None:
    """Succeeded and Failed are final: the pod leaves its Services and gives its address back."""
    cluster = report(running(store(pod("a", f", restartPolicy: {policy}"))), "a", ContainerReport(0, "exited", code, at=NOW), now=NOW)
    found = pod_named(cluster, "a")
    assert found.status.phase == phase
    assert found.is_finished == (cluster.get(Attachment, "default", "a") is None)


def test_a_failed_liveness_probe_restarts_the_container() -> None:
    """After failureThreshold failures; same pod, same address, one restart more."""
    cluster = running(store(pod("a", container=", livenessProbe: {tcpSocket: {port: 1}, failureThreshold: 2}")))
    seen = cluster.get(Observed, "default", "a")
    assert seen is not None
    for failures, restarts in ((1, 0), (2, 1)):
        probe = ProbeReport(0, "liveness", False, "connection refused", NOW + failures, failures)
        cluster = settled(cluster.with_changes([structs.replace(seen, probes={**seen.probes, "main/liveness": probe})]), NOW + failures)
        assert pod_named(cluster, "a").status.container_statuses[0].restart_count == restarts
    assert {"Unhealthy", "Killing"} <= {event.reason for event in cluster.all(Event)}
    assert pod_named(cluster, "a").addresses == ("10.244.1.2",)


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
    assert second["status"]["phase"] == render(cluster, pod_named(cluster, "a"))["status"]["phase"] == "Pending"
    found = render(cluster, next(obj for obj in cluster.all(Service) if obj.name == "web"))
    assert (found["spec"]["type"], found["spec"]["ports"][0]["protocol"]) == ("ClusterIP", "TCP")


def test_a_pod_for_a_node_that_is_not_there_stays_pending() -> None:
    """Its ReplicaSet makes it once, not again and again."""
    cluster = store(deployment("web", 2, nodeName="nowhere"))
    assert [(pod.status.phase, pod.spec.node_name) for pod in web_pods(cluster)] == [("Pending", "nowhere")] * 2


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
    assert all(found.metadata.owner_references[0].kind == "ReplicaSet" for found in web_pods(cluster))
    fewer = applied(cluster, replica_set.replace("replicas: 3", "replicas: 1"))
    assert len(web_pods(fewer)) == 1


def test_events_end_after_an_hour() -> None:
    """The store does not grow for ever."""
    cluster = running(store(deployment()))
    assert cluster.all(Event)
    assert not settled(cluster, NOW + 3601).all(Event)


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
    assert kept - set(without.given) == {("Namespace", "", "a"), ("ConfigMap", "a", "x"), ("Secret", "a", "x"), ("Pod", "a", "p")}


def test_what_is_shown_is_what_is_so() -> None:
    """A default that was changed to, nulls, and what a user wrote inside lists that the lab does not know."""
    more = "        env: [{name: A, value: null}]\n        resources: {limits: {cpu: 1}}\n        volumeMounts: null\n        image"
    text = deployment("web", 3).replace("        image", more)
    cluster = store(text)
    found = cluster.get(Deployment, "default", "web")
    assert found is not None
    scaled = cluster.with_changes([structs.replace(found, spec=structs.replace(found.spec, replicas=1))])
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
    with pytest.raises(ManifestError, match="unable to create new content in namespace going because it is being terminated"):
        applied(going, inside.replace("name: a,", "name: b,"))


# --- old-style Endpoints ---

OUTSIDE = "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{name: https, port: 443}]}\n---\n"
ADDRESSES = """\
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets:
- addresses: [{ip: 198.51.100.20}, {ip: 198.51.100.21}]
  notReadyAddresses: [{ip: 198.51.100.22}]
  ports: [{name: https, port: 8443}]
---
"""


def test_endpoints_tell_what_the_slices_tell() -> None:
    """Ready and not ready, with the resolved port; they go with their Service."""
    cluster = running(store(deployment(replicas=2) + service()))
    found = cluster.get(Endpoints, "default", "web")
    assert found is not None
    (subset,) = found.subsets
    assert [address.ip for address in subset.addresses] == [pod.addresses[0] for pod in web_pods(cluster)]
    assert [port.port for port in subset.ports] == [8080]
    sick = settled(cluster.with_changes([observed(web_pods(cluster)[0], ready=False)]))
    (subset,) = sick.get(Endpoints, "default", "web").subsets  # type: ignore[union-attr]
    assert (len(subset.addresses), len(subset.not_ready_addresses)) == (1, 1)
    gone = settled(cluster.with_changes(terminated(next(s for s in cluster.all(Service) if s.name == "web"), NOW)))
    assert gone.get(Endpoints, "default", "web") is None


def test_hand_made_endpoints_become_slices() -> None:
    """For a Service without a selector; they follow a change, and go with either."""
    cluster = store(OUTSIDE + ADDRESSES)
    (piece,) = slices(cluster, "outside")
    assert piece.labels["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
    assert [(endpoint.addresses[0], endpoint.conditions.is_ready) for endpoint in piece.endpoints] == [
        ("198.51.100.20", True),
        ("198.51.100.21", True),
        ("198.51.100.22", False),
    ]
    changed = applied(cluster, ADDRESSES.replace("{ip: 198.51.100.20}, ", ""))
    assert len(slices(changed, "outside")[0].endpoints) == 2
    endpoints = cluster.get(Endpoints, "default", "outside")
    assert endpoints is not None
    assert not slices(settled(cluster.with_changes(terminated(endpoints, NOW))), "outside")
    skipped = store(
        OUTSIDE + ADDRESSES.replace("{name: outside}", "{name: outside, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}")
    )
    assert not slices(skipped, "outside")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("198.51.100.20", "127.0.0.1"), "may not be a loopback"),
        (("198.51.100.20", "www"), "wanted an IP address"),
        (("name: https, port: 8443", "name: A_b, port: 8443"), "wanted a DNS label"),
    ],
)
def test_endpoints_that_cannot_be_are_refused(change: tuple[str, str], said: str) -> None:
    """As the API server does."""
    assert any(said in problem.message for problem in problems_of(ADDRESSES.replace(*change)))


def test_news_that_has_been_overtaken_changes_nothing() -> None:
    """A program can end before the word that it was started has come through; its next attempt is another run."""
    cluster = running(store(pod("a")))
    netns = pod_netns("default", "a", pod_named(cluster, "a").uid)

    def told(cluster: Cluster, state: str, attempt: int = 0) -> Cluster:
        return cluster.with_changes(
            program_report(cluster, {"netns": netns, "container": "main", "attempt": attempt, "state": state, "at": NOW})
        )

    ended = told(cluster, "exited")
    assert told(ended, "running") is ended
    again = told(ended, "running", 1).get(Observed, "default", "a")
    assert again is not None
    assert (again.containers["main"].attempt, again.containers["main"].state) == (1, "running")
