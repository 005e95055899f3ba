"""Many connections: endpoints get equal shares, and none is lost while endpoints change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.clusters import pod
from tests.labs.lab import run
from tests.labs.lab_view import PROXY_MODES, LabView, SharedLab, mode_in_document
from tests.labs.streaming import streaming

PODS, CONNECTIONS, AT_ONCE = 5, 1200, 200
IMPROBABLE = 40.0
"""Chi-squared that four degrees of freedom exceed once in twenty million runs."""
PER_SECOND = 200


def manifest(proxy: str) -> str:
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{kubeProxyMode: {mode_in_document(proxy)}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: main
        image: agnhost
        args: [netexec]
        readinessProbe: {{httpGet: {{path: /hostname, port: 8080}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
---
{pod("client", spec=", nodeName: worker")}\
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]
"""


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(manifest)
    yield shared
    shared.down()


@pytest.fixture(scope="module", params=PROXY_MODES)
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    return LabView(shared_lab.up(request.param), 4)


@pytest.mark.parametrize("source", ["client", "ext:client"])
def test_endpoints_have_equal_shares(view: LabView, source: str) -> None:
    """Connections go to the cluster IP from a pod, or to a node port from outside."""
    target = (
        (view.cluster_ips["web"], 80)
        if source == "client"
        else (view.address("node:worker2"), 30080)
    )
    counts: Counter[str] = Counter()
    for _ in range(CONNECTIONS // AT_ONCE):
        counts.update(answer.server for answer in view.ask(source, *[("TCP", *target)] * AT_ONCE))
    assert len(counts) == PODS
    share = CONNECTIONS / PODS
    assert sum((count - share) ** 2 / share for count in counts.values()) < IMPROBABLE, counts


def test_no_connection_is_lost_during_a_rollout(view: LabView) -> None:
    """All pods are replaced during 200 connections per second.

    Each used endpoint is ready, or still serves while it terminates.
    """
    lab = view.lab
    before = {pod["name"] for pod in lab.pods("web")}
    with streaming(lab.pod("client"), view.cluster_ips["web"], 80, PER_SECOND) as answers:
        assert answers.readline().strip() in before
        for verb in ("restart", "status"):
            run("rollout", verb, "deployment/web", "--lab", lab.name)
        after = {pod["name"] for pod in lab.pods("web")} - before
        while answers.readline().strip() not in after:
            pass
    assert len(after) == PODS
