"""Many connections: every endpoint gets its share, and none is lost while endpoints come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.labs.lab import run
from tests.labs.streaming import streaming
from tests.labs.world import PROXIES, Labs, World, in_document

PODS, CONNECTIONS, AT_ONCE = 5, 1200, 200
IMPROBABLE = 40.0
"""A chi-squared of four degrees of freedom is that large once in twenty million times."""
PER_SECOND = 200


def manifest(proxy: str) -> str:
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{kubeProxyMode: {in_document(proxy)}}}
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
{{apiVersion: v1, kind: Pod, metadata: {{name: client}}, spec: {{nodeName: worker, containers: [{{name: main, image: agnhost, args: [netexec]}}]}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]}}
"""


@pytest.fixture(scope="module")
def of_mode() -> Iterator[Labs]:
    labs = Labs(manifest)
    yield labs
    labs.end()


@pytest.fixture(scope="module", params=PROXIES)
def world(request: pytest.FixtureRequest, of_mode: Labs) -> World:
    return World(of_mode.of(request.param), 4)


@pytest.mark.parametrize("source", ["client", "ext:client"])
def test_endpoints_have_equal_shares(world: World, source: str) -> None:
    """Of connections to the cluster IP from a pod, to a node port from outside: chi-squared against
    equal shares.
    """
    target = (
        (world.services["web"], 80)
        if source == "client"
        else (world.address("node:worker2"), 30080)
    )
    found: Counter[str] = Counter()
    for _ in range(CONNECTIONS // AT_ONCE):
        found.update(answer.who for answer in world.ask(source, *[("TCP", *target)] * AT_ONCE))
    assert len(found) == PODS
    share = CONNECTIONS / PODS
    assert sum((count - share) ** 2 / share for count in found.values()) < IMPROBABLE, found


def test_no_connection_is_lost_while_endpoints_roll(world: World) -> None:
    """200 a second by the cluster IP while all pods are replaced: whoever is asked is ready, or
    still serves on its way out.
    """
    lab = world.lab
    before = {pod["name"] for pod in lab.pods("web")}
    with streaming(lab.pod("client"), world.services["web"], 80, PER_SECOND) as answers:
        assert answers.readline().strip() in before
        for verb in ("restart", "status"):
            run("rollout", verb, "deployment/web", "--lab", lab.name)
        after = {pod["name"] for pod in lab.pods("web")} - before
        while answers.readline().strip() not in after:
            pass
    assert len(after) == PODS
