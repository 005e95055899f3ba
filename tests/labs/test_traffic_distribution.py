"""trafficDistribution prefers near endpoints, and uses the others if none is left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.labs.lab import wait_for
from tests.labs.lab_view import PROXY_MODES, LabView, SharedLab, mode_in_document

ZONES = {"n1": "a", "n2": "a", "n3": "b"}


def manifest(proxy: str) -> str:
    """Return pods of the Services on three nodes in two zones."""
    nodes = ", ".join(
        f'{{role: worker, name: {name}, labels: {{"topology.kubernetes.io/zone": {zone}}}}}'
        for name, zone in ZONES.items()
    )
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}, labels: {{app: web}}}}\n"
        f"spec: {{nodeName: {node}, "
        "containers: [{name: main, image: agnhost, args: [netexec]}]}\n"
        for node in ZONES
    )
    services = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{trafficDistribution: {preference}, selector: {{app: web}}, "
        "ports: [{port: 80, targetPort: 8080}]}\n"
        for name, preference in (
            ("zone", "PreferSameZone"),
            ("close", "PreferClose"),
            ("node", "PreferSameNode"),
        )
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane}}, {nodes}]\n"
        f"networking: {{kubeProxyMode: {mode_in_document(proxy)}}}\n{pods}{services}"
    )


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(manifest)
    yield shared
    shared.down()


@pytest.fixture(params=PROXY_MODES)
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    return LabView(shared_lab.up(request.param), 4)


def answering(view: LabView, source: str, service: str) -> set[str]:
    return {
        answer.server for answer in view.ask(source, *[("TCP", view.cluster_ips[service], 80)] * 40)
    }


def is_answered_from_the_other_zone(view: LabView, service: str) -> bool:
    return answering(view, "node:n1", service) == {"on-n3"}


def test_near_endpoints_answer(view: LabView) -> None:
    """They are in the client's zone or on its node.

    Without a label on the client's node, all endpoints answer.
    """
    for service in ("zone", "close"):
        assert answering(view, "on-n1", service) == {"on-n1", "on-n2"}
        assert answering(view, "node:n3", service) == {"on-n3"}
        assert answering(view, "node:control-plane", service) == {"on-n1", "on-n2", "on-n3"}
    for node in ZONES:
        assert answering(view, f"on-{node}", "node") == {f"on-{node}"}
    assert answering(view, "node:control-plane", "node") == {"on-n1", "on-n2", "on-n3"}


def test_other_endpoints_answer_if_no_near_one_is_left(view: LabView) -> None:
    """The same zone is used first, and then all endpoints."""
    view.lab.run("delete", "pod", "on-n1")
    wait_for(lambda: answering(view, "node:n1", "node") == {"on-n2"}, "the node's own zone")
    view.lab.run("delete", "pod", "on-n2")
    for service in ("node", "zone"):
        wait_for(partial(is_answered_from_the_other_zone, view, service), "the other zone")
    view.lab.apply(
        "".join(f"---{part}" for part in manifest("nftables").split("---") if "kind: Pod" in part)
    )
