"""StatefulSets, DaemonSets, Jobs and ReplicationControllers: creation and deletion of pods."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.apps import DaemonSet, StatefulSet
from kubenetlab.api.batch import Job
from kubenetlab.api.core import Node
from kubenetlab.api.lab import ContainerReport, PodRuntimeStatus
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.cli.objects.rollout import outstanding
from kubenetlab.controllers.termination import terminated
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


def gone(cluster: Cluster) -> Cluster:
    """Return the store once the rules refer to no terminating pod."""
    going = [pod for pod in cluster.all(Pod) if pod.is_terminating]
    return settled(
        cluster.with_changes(
            PodRuntimeStatus(
                ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid, is_detached=True
            )
            for pod in going
        )
    )


def one_more(cluster: Cluster) -> Cluster:
    """Return the store once the first unready pod has become ready."""
    pod = next(pod for app in ("db", "agent") for pod in of(cluster, app) if not pod.is_ready)
    return settled(cluster.with_changes([observed(pod)]))


def test_stateful_pods_are_created_one_after_the_other() -> None:
    """Each when the previous one is ready; with names, ordinals and the governing Service."""
    cluster = store(HEADLESS + stateful())
    seen = [names(cluster)]
    for _ in range(2):
        cluster = one_more(cluster)
        seen.append(names(cluster))
    assert seen == [["db-0"], ["db-0", "db-1"], ["db-0", "db-1", "db-2"]]
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
    assert names(gone(fewer)) == ["db-0"]
    assert names(applied(cluster, stateful(1, "podManagementPolicy: Parallel"))) == ["db-0"]


def test_a_replaced_stateful_pod_keeps_its_name() -> None:
    """It has a new uid and address, and is created when the old pod is gone."""
    cluster = running(running(running(store(HEADLESS + stateful()))))
    old = pod_named(cluster, "db-1")
    going = settled(cluster.with_changes(terminated(old, NOW)))
    assert names(going) == ["db-0", "db-2"]
    after = running(gone(going))
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
        going = [pod.name for pod in cluster.all(Pod) if pod.is_terminating]
        order += going
        cluster = running(gone(cluster))
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
    ("spec", "where"),
    [
        ("", ["worker", "worker2"]),
        (", tolerations: [{operator: Exists}]", ["control-plane", "worker", "worker2"]),
        (", nodeSelector: {kubernetes.io/hostname: worker2}", ["worker2"]),
        (", nodeSelector: {disktype: ssd}", []),
    ],
)
def test_a_daemon_set_runs_one_pod_on_every_eligible_node(spec: str, where: list[str]) -> None:
    """Labels and taints decide; the status counts the pods."""
    cluster = store(daemon(spec))
    assert nodes_of(cluster) == where
    status = running(cluster).all(DaemonSet)[0].status
    assert (status.desired_number_scheduled, status.number_ready) == (len(where), len(where))


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
        cluster = running(gone(cluster))
    assert counts == [1, 0, 0, 0]
    assert [pod.spec.containers[0].image for pod in of(cluster, "agent")] == ["nginx", "nginx"]


def test_host_network_daemons_run_without_a_pod_network() -> None:
    """This is how a CNI plugin is installed."""
    cluster = store(
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: none}\n---\n"
        + daemon(", hostNetwork: true, tolerations: [{operator: Exists}]")
    )
    assert nodes_of(cluster) == ["control-plane", "worker", "worker2"]


def job(more: str = "", policy: str = "Never") -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: work}}
spec:
  {more}
  template:
    spec:
      restartPolicy: {policy}
      containers: [{{name: main, image: agnhost, args: [connect, "db:5432"]}}]
---
"""


def work(cluster: Cluster) -> Job:
    found = cluster.get(Job, "default", "work")
    assert found is not None
    return found


def workers(cluster: Cluster) -> list[Pod]:
    return [
        pod
        for pod in cluster.owned_by(Pod, work(cluster))
        if not pod.is_finished and not pod.is_terminating
    ]


def ended(cluster: Cluster, pod: Pod, code: int = 0, now: float = NOW) -> Cluster:
    """Return the store once a pod's container has ended."""
    seen = observed(pod)
    done = PodRuntimeStatus(
        seen.metadata,
        seen.pod_uid,
        20,
        containers={"main": ContainerReport(0, "exited", code, at=now)},
    )
    return settled(cluster.with_changes([done]), now)


def test_a_job_completes_when_its_pod_succeeds() -> None:
    """The pod stays, without an address; the Job has the result."""
    cluster = store(job())
    (pod,) = workers(cluster)
    assert pod.labels["batch.kubernetes.io/job-name"] == pod.labels["job-name"] == "work"
    assert work(cluster).status.active == 1
    cluster = ended(cluster, pod)
    assert (work(cluster).outcome, work(cluster).status.succeeded, work(cluster).status.active) == (
        "Complete",
        1,
        0,
    )
    assert pod_named(cluster, pod.name).status.phase == "Succeeded"
    assert not workers(cluster)
    assert settled(cluster, NOW + 1000) is cluster


def test_completions_and_parallelism() -> None:
    """Two pods at a time until five have succeeded; none while suspended."""
    cluster = store(job("completions: 5\n  parallelism: 2"))
    seen = []
    while not work(cluster).outcome:
        seen.append(len(workers(cluster)))
        cluster = ended(cluster, workers(cluster)[0])
    assert seen == [2, 2, 2, 2, 1]
    assert not workers(store(job("suspend: true")))
    queue = store(job("parallelism: 3"))
    one, *others = workers(queue)
    queue = ended(queue, one)
    assert [pod.name for pod in workers(queue)] == [pod.name for pod in others]
    for pod in others:
        queue = ended(queue, pod)
    assert work(queue).outcome == "Complete"


def test_an_indexed_job_completes_each_index_once() -> None:
    """Pods are named and labelled by index; a failed index is repeated."""
    cluster = store(job("completionMode: Indexed\n  completions: 3\n  parallelism: 3"))
    assert sorted(
        (pod.labels["batch.kubernetes.io/job-completion-index"], pod.spec.hostname)
        for pod in workers(cluster)
    ) == [
        ("0", "work-0"),
        ("1", "work-1"),
        ("2", "work-2"),
    ]
    first = next(pod for pod in workers(cluster) if pod.spec.hostname == "work-1")
    cluster = settled(ended(cluster, first, 1), NOW + 11)
    assert sorted(pod.spec.hostname for pod in workers(cluster)) == ["work-0", "work-1", "work-2"]
    for pod in workers(cluster):
        cluster = ended(cluster, pod, now=NOW + 11)
    assert (work(cluster).outcome, work(cluster).status.completed_indexes) == ("Complete", "0,1,2")


def test_failed_pods_are_replaced_with_back_off_until_the_limit() -> None:
    """After 10 s, then 20 s; beyond backoffLimit the Job fails."""
    cluster = store(job("backoffLimit: 2"))
    now = NOW
    for wait in (10, 20):
        cluster = ended(cluster, workers(cluster)[0], 1, now)
        assert not workers(cluster)
        assert not workers(settled(cluster, now + wait - 1))
        now += wait
        cluster = settled(cluster, now)
        assert len(workers(cluster)) == 1
    cluster = ended(cluster, workers(cluster)[0], 1, now)
    assert work(cluster).outcome == "Failed"
    assert work(cluster).status.conditions[0].reason == "BackoffLimitExceeded"


def test_a_job_has_a_deadline_and_a_ttl() -> None:
    """Beyond the deadline it fails and its pods are deleted; after the TTL it is deleted."""
    cluster = store(job("activeDeadlineSeconds: 60"))
    assert work(settled(cluster, NOW + 59)).outcome == ""
    late = settled(cluster, NOW + 60)
    assert (work(late).status.conditions[0].reason, workers(late)) == ("DeadlineExceeded", [])
    short = store(job("ttlSecondsAfterFinished: 30"))
    done = ended(short, workers(short)[0])
    assert settled(done, NOW + 29).get(Job, "default", "work") is not None
    assert settled(done, NOW + 30).get(Job, "default", "work") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (job(policy="Always"), "wanted OnFailure or Never in a Job"),
        (job("completionMode: Indexed"), "required when completion mode is Indexed"),
        (job("selector: {matchLabels: {a: b}}"), "is made by the Job itself"),
    ],
)
def test_invalid_jobs_are_rejected(text: str, said: str) -> None:
    """The messages are the API server's."""
    assert any(said in problem.message for problem in problems_of(text))


def test_a_jobs_template_cannot_change() -> None:
    """The field is immutable."""
    with pytest.raises(ManifestError, match="template: field is immutable"):
        applied(store(job()), job().replace("db:5432", "db:5433"))


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


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        (
            {
                "kind": "Deployment",
                "metadata": {"generation": 2},
                "spec": {"replicas": 3},
                "status": {"observedGeneration": 1},
            },
            "its new template has not been seen yet",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {},
                "spec": {"replicas": 3},
                "status": {"updatedReplicas": 1, "replicas": 4},
            },
            "1 out of 3 new pods have been updated",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {},
                "spec": {"replicas": 3},
                "status": {"updatedReplicas": 3, "replicas": 4},
            },
            "1 old pods are still there",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {},
                "spec": {},
                "status": {"updatedReplicas": 1, "replicas": 1},
            },
            "0 of 1 pods are available",
        ),
        (
            {
                "kind": "StatefulSet",
                "metadata": {},
                "spec": {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}},
                "status": {"updatedReplicas": 1, "replicas": 2, "availableReplicas": 2},
            },
            None,
        ),
        (
            {
                "kind": "DaemonSet",
                "metadata": {},
                "spec": {},
                "status": {"desiredNumberScheduled": 2, "updatedNumberScheduled": 1},
            },
            "1 out of 2 new pods have been updated",
        ),
        (
            {
                "kind": "DaemonSet",
                "metadata": {},
                "spec": {},
                "status": {
                    "desiredNumberScheduled": 1,
                    "updatedNumberScheduled": 1,
                    "currentNumberScheduled": 1,
                    "numberAvailable": 1,
                },
            },
            None,
        ),
    ],
)
def test_the_conditions_of_a_finished_rollout(
    document: dict[str, Any], missing: str | None
) -> None:
    """As in kubectl: template observed, new pods created, old ones gone, all available."""
    assert outstanding(document) == missing
