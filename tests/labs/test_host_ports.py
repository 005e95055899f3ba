"""hostPort: a node's port that leads to a pod on the node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters import pod
from tests.labs.lab import wait_for
from tests.labs.lab_view import LabView, SharedLab

VARIANTS = [("onlink", 4), ("onlink", 6), ("routed", 4), ("routed", 6)]
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
""" + "".join(
        pod(name, spec=f", nodeName: {node}")
        for name, node in (("near", "worker"), ("far", "worker2"))
    )


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(manifest)
    yield shared
    shared.down()


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    layout, version = request.param
    return LabView(shared_lab.up(layout), version)


@pytest.mark.parametrize("source", ["ext:client", "near", "far", "web", *NODES])
def test_a_host_port_leads_to_its_pod(view: LabView, source: str) -> None:
    """It works with TCP and UDP from everywhere.

    The pod sees the client; only its own connections are masqueraded by the node.
    """
    node = view.address("node:worker")
    for answer in view.ask(source, ("TCP", node, 8888), ("UDP", node, 8888)):
        assert answer.server == "web"
        assert answer.client[0] == (node if source == "web" else view.address(source))


def test_only_the_pods_node_has_the_host_port(view: LabView) -> None:
    """Other nodes refuse connections, and so does the pod's node on other ports."""
    (other_node,) = view.ask("ext:client", ("TCP", view.address("node:worker2"), 8888))
    (other_port,) = view.ask("ext:client", ("TCP", view.address("node:worker"), 8889))
    assert (other_node.error, other_port.error) == ("refused", "refused")


def test_a_host_ip_limits_the_port_to_one_address(view: LabView) -> None:
    """The port answers only at 172.18.0.3, the address of the node worker."""
    (answer,) = view.ask("ext:client", ("TCP", view.address("node:worker"), 8899))
    assert (answer.server, answer.error) == (("web", "") if view.version == 4 else ("", "refused"))


def test_a_node_reaches_host_ports_at_its_localhost(view: LabView) -> None:
    """This is limited to IPv4, as with the plugin portmap."""
    if view.version == 4:
        (answer,) = view.ask("node:worker", ("TCP", "127.0.0.1", 8888))
        assert answer.server == "web"


def test_a_host_port_exists_only_with_its_pod(view: LabView) -> None:
    """It is removed with the pod, and returns with a new pod."""
    node = ("TCP", view.address("node:worker"), 8888)
    view.lab.run("delete", "pod", "web")
    wait_for(lambda: view.ask("ext:client", node)[0].error == "refused", "the end of the port")
    assert "cni_hostport" not in view.lab.inside(
        view.places["node:worker"], "nft", "list", "tables"
    )
    view.lab.apply(manifest(view.inspected["pod_layout"]))
    wait_for(lambda: view.ask("ext:client", node)[0].server == "web", "the port again")
