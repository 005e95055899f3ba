"""StatefulSets, DaemonSets, Jobs and ReplicationControllers: creation and deletion of pods."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.apps import DaemonSet, StatefulSet
from kubenetlab.api.core import Node
from kubenetlab.api.lab import PodRuntimeStatus
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.errors import ManifestError
from tests.clusters import NOW, applied, observed, pod_named, problems_of, running, settled, store

HEADLESS = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n"
    "spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, "
    "port: 5432}]}\n---\n"
)


def stateful(replicas: int = 3, more: str = "", image: str = "agnhost") -> str:
    return f"""\
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: {replicas}
  {more}
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec: {{containers: [{{name: main, image: {image}, args: [netexec]}}]}}
---
"""


def daemon(spec: str = "", more: str = "", image: str = "agnhost") -> str:
    return f"""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  {more}
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec: {{containers: [{{name: main, image: {image}, args: [netexec]}}]{spec}}}
---
"""


def of(cluster: Cluster, app: str) -> list[Pod]:
    return sorted(
        (pod for pod in cluster.select("default", {"app": app}) if not pod.is_terminating),
        key=lambda pod: pod.name,
    )


def names(cluster: Cluster, app: str = "db") -> list[str]:
    return [pod.name for pod in of(cluster, app)]


def detached(cluster: Cluster) -> Cluster:
    """Return the store once the rules refer to no terminating pod."""
    terminating = [pod for pod in cluster.all(Pod) if pod.is_terminating]
    return settled(
        cluster.with_changes(
            PodRuntimeStatus(
                ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid, is_detached=True
            )
            for pod in terminating
        )
    )


def one_more(cluster: Cluster) -> Cluster:
    """Return the store once the first unready pod has become ready."""
    pod = next(pod for app in ("db", "agent") for pod in of(cluster, app) if not pod.is_ready)
    return settled(cluster.with_changes([observed(pod)]))


def test_stateful_pods_are_created_one_after_the_other() -> None:
    """Each when the previous one is ready; with names, ordinals and the governing Service."""
    cluster = store(HEADLESS + stateful())
    steps = [names(cluster)]
    for _ in range(2):
        cluster = one_more(cluster)
        steps.append(names(cluster))
    assert steps == [["db-0"], ["db-0", "db-1"], ["db-0", "db-1", "db-2"]]
    pod = pod_named(cluster, "db-1")
    assert (pod.spec.hostname, pod.spec.subdomain) == ("db-1", "db")
    assert pod.labels["statefulset.kubernetes.io/pod-name"] == "db-1"
    assert pod.labels["apps.kubernetes.io/pod-index"] == "1"
    status = one_more(cluster).all(StatefulSet)[0].status
    assert (status.replicas, status.ready_replicas, status.updated_replicas) == (3, 3, 3)


def test_parallel_creates_all_stateful_pods_at_once() -> None:
    """Ordinals start at `ordinals.start`."""
    assert names(store(stateful(3, "podManagementPolicy: Parallel\n  ordinals: {start: 5}"))) == [
        "db-5",
        "db-6",
        "db-7",
    ]


def test_stateful_pods_are_deleted_from_the_highest_ordinal() -> None:
    """Each when the previous one is gone."""
    cluster = running(store(stateful(3, "podManagementPolicy: Parallel")))
    ordered = running(running(running(store(stateful()))))
    assert names(ordered) == names(cluster)
    fewer = applied(ordered, stateful(1))
    assert names(fewer) == ["db-0", "db-1"]
    assert names(detached(fewer)) == ["db-0"]
    assert names(applied(cluster, stateful(1, "podManagementPolicy: Parallel"))) == ["db-0"]


def test_a_replaced_stateful_pod_keeps_its_name() -> None:
    """It has a new uid and address, and is created when the old pod is gone."""
    cluster = running(running(running(store(HEADLESS + stateful()))))
    old = pod_named(cluster, "db-1")
    deleted = settled(cluster.with_changes(deletion_changes(old, NOW)))
    assert names(deleted) == ["db-0", "db-2"]
    after = running(detached(deleted))
    new = pod_named(after, "db-1")
    assert new.uid != old.uid
    assert new.addresses != old.addresses


def test_a_new_template_is_rolled_out_down_to_the_partition() -> None:
    """One pod at a time, each when the last is ready; OnDelete waits for a deletion by the user."""
    cluster = running(running(running(store(stateful()))))
    partition = "updateStrategy: {rollingUpdate: {partition: 1}}"
    cluster = applied(cluster, stateful(3, partition, "nginx"))
    order = []
    for _ in range(6):
        terminating = [pod.name for pod in cluster.all(Pod) if pod.is_terminating]
        order += terminating
        cluster = running(detached(cluster))
    assert order == ["db-2", "db-1"]
    assert [pod.spec.containers[0].image for pod in of(cluster, "db")] == [
        "agnhost",
        "nginx",
        "nginx",
    ]
    waiting = applied(cluster, stateful(3, "updateStrategy: {type: OnDelete}", "httpd"))
    assert not [pod for pod in waiting.all(Pod) if pod.is_terminating]


def test_immutable_fields_of_a_stateful_set() -> None:
    """These are serviceName and podManagementPolicy."""
    cluster = store(stateful())
    with pytest.raises(ManifestError, match="field is immutable"):
        applied(cluster, stateful().replace("serviceName: db", "serviceName: other"))


def nodes_of(cluster: Cluster) -> list[str]:
    return sorted(pod.spec.node_name for pod in of(cluster, "agent"))


@pytest.mark.parametrize(
    ("spec", "nodes"),
    [
        ("", ["worker", "worker2"]),
        (", tolerations: [{operator: Exists}]", ["control-plane", "worker", "worker2"]),
        (", nodeSelector: {kubernetes.io/hostname: worker2}", ["worker2"]),
        (", nodeSelector: {disktype: ssd}", []),
    ],
)
def test_a_daemon_set_runs_one_pod_on_every_eligible_node(spec: str, nodes: list[str]) -> None:
    """Labels and taints decide; the status counts the pods."""
    cluster = store(daemon(spec))
    assert nodes_of(cluster) == nodes
    status = running(cluster).all(DaemonSet)[0].status
    assert (status.desired_number_scheduled, status.number_ready) == (len(nodes), len(nodes))


def test_a_daemon_set_follows_the_nodes() -> None:
    """A new node gets a pod, a removed node's pod is deleted."""
    cluster = running(store(daemon()))
    more = applied(
        cluster,
        (
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            "nodes: [{role: control-plane}, {role: worker}, {role: worker}, {role: "
            "worker}]"
        ),
    )
    assert nodes_of(more) == ["worker", "worker2", "worker3"]
    fewer = applied(
        more,
        (
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            "nodes: [{role: control-plane}, {role: worker}]"
        ),
    )
    assert nodes_of(settled(fewer)) == ["worker"]
    assert len(fewer.all(Node)) == 2


def test_a_daemon_set_is_updated_node_by_node() -> None:
    """At most maxUnavailable nodes lack a pod; the next follows when the new pod is ready."""
    cluster: Any = running(store(daemon()))
    cluster = applied(cluster, daemon(image="nginx"))
    counts = []
    for _ in range(4):
        counts.append(
            [pod.spec.containers[0].image for pod in of(cluster, "agent")].count("agnhost")
        )
        cluster = running(detached(cluster))
    assert counts == [1, 0, 0, 0]
    assert [pod.spec.containers[0].image for pod in of(cluster, "agent")] == ["nginx", "nginx"]


def test_host_network_daemons_run_without_a_pod_network() -> None:
    """This is how a CNI plugin is installed."""
    cluster = store(
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: none}\n---\n"
        + daemon(", hostNetwork: true, tolerations: [{operator: Exists}]")
    )
    assert nodes_of(cluster) == ["control-plane", "worker", "worker2"]


def test_a_replication_controller_maintains_its_pods() -> None:
    """It works as a ReplicaSet; its selector defaults to the template's labels."""
    text = (
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: old}\n"
        "spec:\n  replicas: 2\n  template:\n"
        "    metadata: {labels: {app: old}}\n"
        "    spec: {containers: [{name: main, image: nginx}]}\n"
    )
    cluster = store(text)
    assert len(of(cluster, "old")) == 2
    assert of(cluster, "old")[0].metadata.owner_references[0].kind == "ReplicationController"
    assert len(of(applied(cluster, text.replace("replicas: 2", "replicas: 1")), "old")) == 1
    wrong = text.replace("replicas: 2", "replicas: 2\n  selector: {app: other}")
    assert any("does not match template" in problem.message for problem in problems_of(wrong))
