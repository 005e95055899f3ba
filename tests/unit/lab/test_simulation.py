"""Simulation of a lab in which nothing fails."""

from __future__ import annotations

from kubenetlab.api.pods import Pod
from kubenetlab.datapath import plan
from kubenetlab.lab.simulation import simulate
from kubenetlab.observe.settled import verdicts
from tests.clusters import NO_CNI, NOW, decided, deployment, pod, pod_named, service, slices, store


def states(text: str) -> dict[str, str]:
    return {
        verdict.pod: verdict.state
        for verdict in verdicts(simulate(store(text), NOW))
        if verdict.pod.startswith("default/")
    }


def test_a_simulation_ends_with_every_pod_ready() -> None:
    """Pods that wait for others are ready as well, such as those of a StatefulSet."""
    text = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 4
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: agnhost, args: [netexec]}]}
---
"""
    cluster = simulate(store(text + deployment() + service()), NOW)
    assert {verdict.state for verdict in verdicts(cluster)} == {"ready"}
    assert [pod_named(cluster, f"db-{number}").is_ready for number in range(4)] == [True] * 4
    assert [
        endpoint.conditions.ready
        for endpoint_slice in slices(cluster)
        for endpoint in endpoint_slice.endpoints
    ] == [True] * 3


def test_programs_that_end_by_themselves_have_completed() -> None:
    """The pods of a Job are Completed and have no namespace; endless programs keep running."""
    text = """
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  completions: 3
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: agnhost, args: [connect, "10.96.0.1:443"]}]
---
"""
    cluster = simulate(store(text), NOW)
    phases = [job_pod.status.phase for job_pod in cluster.all(Pod) if "once-" in job_pod.name]
    assert phases == ["Succeeded"] * 3
    assert not [
        netns
        for netns in plan(cluster, decided("onlink", "dynamic")).namespaces
        if "/once-" in netns
    ]
    assert set(states(text.replace("agnhost", "busybox")).values()) == {"completed"}
    assert set(states(text.replace("connect", "netexec")).values()) == {"ready"}


def test_a_pod_that_cannot_become_ready_is_not_reported_as_ready() -> None:
    """A pod without a fitting node is stuck, and a pod that is unready on purpose stays unready.

    Without a CNI plugin, pods on the host network are ready.
    """
    unready = pod("shy", meta=', annotations: {kubenetlab.dev/ready: "false"}')
    assert states(unready + pod("lost", ", nodeSelector: {disk: ssd}")) == {
        "default/shy": "unready",
        "default/lost": "stuck",
    }
    assert (
        states(
            NO_CNI
            + pod("a", ", nodeName: worker")
            + pod("b", ", nodeName: worker, hostNetwork: true")
        )["default/b"]
        == "ready"
    )
