"""hostPort: a node's port that leads to a pod on it; who reaches it, and whom the pod sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.lab import wait_for
from tests.labs.world import Labs, World

KINDS = [("onlink", 4), ("onlink", 6), ("routed", 4), ("routed", 6)]
NODES = ("node:control-plane", "node:worker", "node:worker2")


def manifest(layout: str) -> str:
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{ipFamily: dual, cni: {{type: bridge, layout: {layout}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  nodeName: worker
  containers:
  - name: main
    image: agnhost
    args: [netexec]
    ports:
    - {{containerPort: 8080, hostPort: 8888}}
    - {{containerPort: 8081, hostPort: 8888, protocol: UDP}}
    - {{containerPort: 8080, hostPort: 8899, hostIP: 172.18.0.3}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: near}}, spec: {{nodeName: worker, containers: [{{name: main, image: agnhost, args: [netexec]}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: far}}, spec: {{nodeName: worker2, containers: [{{name: main, image: agnhost, args: [netexec]}}]}}}}
"""


@pytest.fixture(scope="module")
def of_layout() -> Iterator[Labs]:
    labs = Labs(manifest)
    yield labs
    labs.end()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def world(request: pytest.FixtureRequest, of_layout: Labs) -> World:
    layout, version = request.param
    return World(of_layout.of(layout), version)


@pytest.mark.parametrize("source", ["ext:client", "near", "far", "web", *NODES])
def test_a_host_port_leads_to_its_pod(world: World, source: str) -> None:
    """By TCP and UDP, from everywhere; the pod sees who asks, but for itself, whom the node hides."""
    node = world.address("node:worker")
    for answer in world.ask(source, ("TCP", node, 8888), ("UDP", node, 8888)):
        assert answer.who == "web"
        assert answer.seen[0] == (node if source == "web" else world.address(source))


def test_only_its_own_node_has_it(world: World) -> None:
    """Another node refuses; so does the pod's own for a protocol and a port that nobody asked for."""
    (other,) = world.ask("ext:client", ("TCP", world.address("node:worker2"), 8888))
    (port,) = world.ask("ext:client", ("TCP", world.address("node:worker"), 8889))
    assert (other.error, port.error) == ("refused", "refused")


def test_a_host_ip_is_one_address_of_the_node(world: World) -> None:
    """At 172.18.0.3 alone, which is worker's."""
    (answer,) = world.ask("ext:client", ("TCP", world.address("node:worker"), 8899))
    assert (answer.who, answer.error) == (("web", "") if world.version == 4 else ("", "refused"))


def test_a_node_reaches_it_at_its_localhost(world: World) -> None:
    """IPv4's only, as with portmap."""
    if world.version == 4:
        (answer,) = world.ask("node:worker", ("TCP", "127.0.0.1", 8888))
        assert answer.who == "web"


def test_it_goes_with_its_pod(world: World) -> None:
    """And comes again with it."""
    node = ("TCP", world.address("node:worker"), 8888)
    world.lab.run("delete", "pod", "web")
    wait_for(lambda: world.ask("ext:client", node)[0].error == "refused", "the end of the port")
    assert "cni_hostport" not in world.lab.inside(
        world.places["node:worker"], "nft", "list", "tables"
    )
    world.lab.apply(manifest(world.seen["pod_layout"]))
    wait_for(lambda: world.ask("ext:client", node)[0].who == "web", "the port again")
