"""BGP by annotations of kube-router: AS numbers, routers, route reflectors, and their routes."""

from __future__ import annotations

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import Lab, wait_for
from tests.labs.test_bgp_filters import attributes
from tests.labs.test_bgp_peers import SWITCHED
from tests.labs.test_bgp_router import bird_routes, reaches, sessions
from tests.unit.datapath.network.test_kube_router_bgp import PASSWORD, node

pytestmark = pytest.mark.skipif(
    not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"
)
NODES = SWITCHED.replace("cni: calico", "cni: kube-router")
ROUTED = NODES.replace("topology: switched", "topology: switched, bgp: {}")
REFUSED = node(
    "control-plane",
    node_asn="65001",
    node_bgp_customimportreject="10.244.2.0/24",
)


def test_as_numbers_and_routers_of_annotations(lab: Lab) -> None:
    """Two nodes are in one AS, the third one in another; two have a session with a password.

    The router sees the communities and the longer path of one node.
    """
    lab.up(
        ROUTED
        + "---\n"
        + node("control-plane", node_asn="65001")
        + node(
            "worker",
            node_asn="65001",
            peer_ips="172.18.0.4",
            peer_asns="65002",
            peer_passwords=PASSWORD,
        )
        + node(
            "worker2",
            node_asn="65002",
            peers=f"[{{remoteip: 172.18.0.3, remoteasn: 65001, password: {PASSWORD}}}]",
            node_bgp_communities="65000:7",
            path__prepend_as="65002",
            path__prepend_repeat__n="2",
        )
    )
    assert lab.problems == []
    a, b = lab.pod("a"), lab.pod("b")
    assert reaches(lab, a, b)
    assert sessions(lab, "node:worker") == {
        "Node_172_18_0_4": "Established",
        "Router_172_18_0_1": "Established",
        "Mesh_172_18_0_2": "Established",
    }
    assert set(sessions(lab, "node:worker2")) == {"Node_172_18_0_3", "Router_172_18_0_1"}
    paths = attributes(lab, "fabric:router", "BGP.as_path")
    assert paths == {
        "10.244.0.0/24": {"65001"},
        "10.244.1.0/24": {"65001"},
        "10.244.2.0/24": {"65002 65002 65002"},
    }
    assert attributes(lab, "fabric:router", "BGP.community") == {"10.244.2.0/24": {"(65000,7)"}}

    failed = lab.run("apply", "-f", "-", stdin=REFUSED, status=1)
    assert "control-plane gets no route to 10.244.2.0/24 of worker2: filters" in failed.err
    wait_for(
        lambda: set(bird_routes(lab, "node:control-plane")) == {"10.244.1.0/24"},
        "the end of the route",
    )


def test_reflectors_and_clients_of_annotations(lab: Lab) -> None:
    """Clients have one session; packets between them do not pass the reflector."""
    lab.up(
        NODES
        + "---\n"
        + node("control-plane", rr_server="42")
        + node("worker", rr_client="42")
        + node("worker2", rr_client="42")
    )
    assert lab.problems == []
    assert sessions(lab, "node:worker") == {"Mesh_172_18_0_2": "Established"}
    assert len(sessions(lab, "node:control-plane")) == 2
    assert reaches(lab, lab.pod("a"), lab.pod("b"))
    assert bird_routes(lab, "node:worker") == {
        "10.244.0.0/24": {"172.18.0.2"},
        "10.244.2.0/24": {"172.18.0.4"},
    }
    clusters = attributes(lab, "node:worker", "BGP.cluster_list")
    assert clusters == {"10.244.2.0/24": {"0.0.0.42"}}
