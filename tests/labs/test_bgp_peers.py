"""BGPConfiguration and BGPPeer of Calico: sessions that manifests ask for, and their packets."""

from __future__ import annotations

import re

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import SHORTLY, Lab, wait_for
from tests.labs.test_bgp_router import bird_routes, manifest, reaches, sessions

pytestmark = pytest.mark.skipif(
    not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"
)
SWITCHED = manifest("calico", workers="a a").replace(
    "topology: routed, bgp: {}", "topology: switched"
)
SWITCHED = re.sub(r", segment: \w", "", SWITCHED)
"""A control-plane and two workers on one network, without BGP of the router."""
NO_MESH = """\
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false, asNumber: 64600}
"""
REFLECTOR = """\
---
apiVersion: v1
kind: Node
metadata:
  name: control-plane
  labels: {route-reflector: 'true'}
  annotations: {projectcalico.org/RouteReflectorClusterID: 244.0.0.1}
"""
CLIENTS = """\
---
apiVersion: crd.projectcalico.org/v1
kind: BGPPeer
metadata: {name: reflector}
spec:
  nodeSelector: "!has(route-reflector)"
  peerSelector: has(route-reflector)
"""
PASSWORD = "  password: {secretKeyRef: {name: bgp, key: password}}\n"
SECRET = """\
---
apiVersion: v1
kind: Secret
metadata: {name: bgp, namespace: kube-system}
stringData: {password: correct horse}
"""


def test_a_route_reflector_of_manifests_replaces_the_mesh(lab: Lab) -> None:
    """Nodes have one session; packets between pods do not pass the reflector."""
    lab.up(SWITCHED + NO_MESH + REFLECTOR + CLIENTS)
    assert lab.problems == []
    assert sessions(lab, "node:worker") == {"Node_172_18_0_2": "Established"}
    assert len(sessions(lab, "node:control-plane")) == 2
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    far = lab.place("nodes", "worker2")["addresses"][0]
    assert {far} in bird_routes(lab, "node:worker").values()
    shown = lab.run("exec", "node:worker", "--", "birdc", "show", "route", "all").out
    assert "BGP.cluster_list: 244.0.0.1" in shown
    assert (
        "local 172.18.0.3 as 64600"
        in lab.run("exec", "node:worker", "--", "cat", "/etc/bird/bird.conf").out
    )


def test_peers_change_while_the_lab_is_up(lab: Lab) -> None:
    """Without sessions no route is left, and `apply` says so; with a peer they come back."""
    lab.up(SWITCHED)
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    failed = lab.run("apply", "-f", "-", stdin=NO_MESH, status=1)
    assert "gets no route to the pods of" in failed.err
    wait_for(lambda: not reaches(lab, lab.pod("a"), lab.pod("b")), "the end of the route")
    lab.apply(
        CLIENTS.replace('"!has(route-reflector)"', "all()").replace("has(route-reflector)", "all()")
    )
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    assert lab.problems == []
    lab.run("delete", "bgppeer", "reflector")
    lab.run("delete", "bgpconfiguration", "default")
    mesh = {"Mesh_172_18_0_2": "Established", "Mesh_172_18_0_4": "Established"}
    wait_for(lambda: sessions(lab, "node:worker") == mesh, "the mesh")


def test_sessions_with_a_password(lab: Lab) -> None:
    """A node with another one gets no session; without the Secret it is reported."""
    peers = SWITCHED + NO_MESH + REFLECTOR + CLIENTS + PASSWORD
    failed = lab.run("up", "-f", "-", stdin=peers, status=1)
    assert "BGPPeer reflector: spec.password.secretKeyRef: there is no Secret" in failed.err
    lab.up(peers + SECRET)
    assert set(sessions(lab, "node:control-plane").values()) == {"Established"}
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    file = lab.run("exec", "node:worker", "--", "stat", "-c", "%a", "/etc/bird/bird.conf").out
    assert file.strip() == "600"
    for command in (("inspect", "node:worker"), ("diff",), ("plan", "-f", "-")):
        shown = lab.run(*command, stdin=peers + SECRET if "-f" in command else None)
        assert "correct horse" not in shown.out + shown.err
    assert "correct horse" not in (lab.directory / "log").read_text()
    changed = "sed -i 's/correct horse/wrong/' /etc/bird/bird.conf"
    lab.run(
        "apply",
        "-f",
        "-",
        stdin="apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker}, {role: worker}]\n"
        "networking: {cni: calico}\nfabric: {topology: switched}\ndrift: keep\n",
    )
    lab.run("exec", "node:worker", "--", "sh", "-c", f"{changed}; birdc configure")
    wait_for(
        lambda: sessions(lab, "node:worker")["Node_172_18_0_2"] != "Established",
        "the end of the session",
    )
    assert sessions(lab, "node:worker2")["Node_172_18_0_2"] == "Established"


def test_each_rack_has_an_as_number(lab: Lab) -> None:
    """As annotations of nodes; the router passes routes on with both numbers in the path."""
    racks = {"control-plane": 65001, "worker": 65001, "worker2": 65002}
    nodes = "".join(
        f"---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, annotations: "
        f"{{projectcalico.org/ASNumber: '{number}'}}}}\n"
        for name, number in racks.items()
    )
    lab.up(manifest("calico") + nodes)
    assert lab.problems == []
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    shown = lab.run("exec", "node:worker", "--", "birdc", "show", "route", "all").out
    assert set(re.findall(r"BGP.as_path: (.*)", shown)) == {"65000 65001", "65000 65002"}


def test_a_peer_that_no_lab_has_is_named(lab: Lab) -> None:
    """calico-node is not ready, as in a cluster, and pods reach each other.

    With a backend without BGP no node has the session.
    """
    absent = (
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: tor}\n"
        "spec: {peerIP: 192.0.2.1, asNumber: 65001, sourceAddress: None}\n"
    )
    created = lab.run("up", "-f", "-", *SHORTLY, stdin=SWITCHED + absent, status=1)
    assert "nothing at 192.0.2.1 has BGP in this lab" in created.err
    agent = next(pod for pod in lab.inspected["pods"] if pod["name"].startswith("calico-node-"))
    assert not agent["ready"]
    log = ("logs", "-n", "kube-system", agent["name"])
    wait_for(
        lambda: "BGP not established with 192.0.2.1" in lab.run(*log).out, "the log of calico-node"
    )
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    failed = lab.run("up", "--cni", "calico-vxlan", status=1)
    assert "BGPPeer tor: has no session: with these options of calico no node runs BIRD" in (
        failed.err
    )
