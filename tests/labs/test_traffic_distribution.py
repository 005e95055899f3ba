"""trafficDistribution: who is near comes first, and the others when nobody near is left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.labs.lab import wait_for
from tests.labs.world import PROXIES, Labs, World, in_document

ZONES = {"n1": "a", "n2": "a", "n3": "b"}


def manifest(proxy: str) -> str:
    """A pod of the Services on each of three nodes in two zones, and one that is a client only."""
    nodes = ", ".join(
        f'{{role: worker, name: {name}, labels: {{"topology.kubernetes.io/zone": {zone}}}}}'
        for name, zone in ZONES.items()
    )
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec]}}]}}\n"
        for node in ZONES
    )
    services = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{trafficDistribution: {wish}, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
        for name, wish in (
            ("zone", "PreferSameZone"),
            ("close", "PreferClose"),
            ("node", "PreferSameNode"),
        )
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane}}, {nodes}]\nnetworking: {{kubeProxyMode: {in_document(proxy)}}}\n{pods}{services}"
    )


@pytest.fixture(scope="module")
def of_mode() -> Iterator[Labs]:
    labs = Labs(manifest)
    yield labs
    labs.end()


@pytest.fixture(params=PROXIES)
def world(request: pytest.FixtureRequest, of_mode: Labs) -> World:
    return World(of_mode.of(request.param), 4)


def answering(world: World, source: str, service: str) -> set[str]:
    return {
        answer.who for answer in world.ask(source, *[("TCP", world.services[service], 80)] * 40)
    }


def is_answered_from_the_other_zone(world: World, service: str) -> bool:
    return answering(world, "node:n1", service) == {"on-n3"}


def test_who_is_near_answers(world: World) -> None:
    """In the client's zone, on its node; where nothing is said of the client's place, everybody."""
    for service in ("zone", "close"):
        assert answering(world, "on-n1", service) == {"on-n1", "on-n2"}
        assert answering(world, "node:n3", service) == {"on-n3"}
        assert answering(world, "node:control-plane", service) == {"on-n1", "on-n2", "on-n3"}
    for node in ZONES:
        assert answering(world, f"on-{node}", "node") == {f"on-{node}"}
    assert answering(world, "node:control-plane", "node") == {"on-n1", "on-n2", "on-n3"}


def test_others_answer_when_nobody_near_is_left(world: World) -> None:
    """A preference only: first the zone's others, then everybody."""
    world.lab.run("delete", "pod", "on-n1")
    wait_for(lambda: answering(world, "node:n1", "node") == {"on-n2"}, "the node's own zone")
    world.lab.run("delete", "pod", "on-n2")
    for service in ("node", "zone"):
        wait_for(partial(is_answered_from_the_other_zone, world, service), "the other zone")
    world.lab.apply(
        "".join(f"---{part}" for part in manifest("nftables").split("---") if "kind: Pod" in part)
    )
