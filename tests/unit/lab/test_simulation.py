"""What a lab comes to when everything goes well."""

from __future__ import annotations

from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.datapath import plan
from kubenetlab.lab.simulation import rehearse
from kubenetlab.observe.settled import verdicts
from tests.clusters import NO_CNI, NOW, deployment, pod, pod_named, service, slices, store


def states(text: str) -> dict[str, str]:
    return {
        verdict.pod: verdict.state
        for verdict in verdicts(rehearse(store(text), NOW))
        if verdict.pod.startswith("default/")
    }


def test_a_rehearsal_ends_with_every_pod_ready() -> None:
    """Those too that wait for others: the pods of a StatefulSet come one after the other."""
    text = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 4
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: agnhost, args: [netexec]}]}}
---
"""
    cluster = rehearse(store(text + deployment() + service()), NOW)
    assert {verdict.state for verdict in verdicts(cluster)} == {"ready"}
    assert [pod_named(cluster, f"db-{number}").is_ready for number in range(4)] == [True] * 4
    assert [
        endpoint.conditions.ready for piece in slices(cluster) for endpoint in piece.endpoints
    ] == [True] * 3


def test_what_asks_once_has_ended() -> None:
    """A Job's pods are Completed and have no namespace any more; a program that never ends goes on."""
    text = """
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  completions: 3
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: agnhost, args: [connect, "10.96.0.1:443"]}]}}
---
"""
    cluster = rehearse(store(text), NOW)
    assert [found.status.phase for found in cluster.all(Pod) if found.name.startswith("once-")] == [
        "Succeeded"
    ] * 3
    assert not [
        netns
        for netns in plan(cluster, Decisions(pod_layout="onlink", neighbors="dynamic")).namespaces
        if "/once-" in netns
    ]
    assert set(states(text.replace("agnhost", "busybox")).values()) == {"completed"}
    assert set(states(text.replace("connect", "netexec")).values()) == {"ready"}


def test_what_cannot_be_stays_so() -> None:
    """No node fits, no network is there, or the pod is unready on purpose: a rehearsal grants no more than the kubelets could."""
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
