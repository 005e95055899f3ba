"""flannel's backends: links and routes between nodes."""

from __future__ import annotations

import pytest

from kubenetlab.datapath import modes, plan
from kubenetlab.hoststate.links.ipip import Ipip
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from tests.clusters import running, store
from tests.unit.datapath.test_cni_agents import PODS, decisions, manifest


def objects(options: str, *places: str) -> list[Object]:
    """Return the objects of namespaces whose names begin with one of the texts."""
    text = manifest(f"{{type: flannel, {options}}}", family="ipv4") + PODS
    cluster = running(store(text))
    state = plan(cluster, decisions(cluster))
    return [
        obj
        for netns in state.namespaces
        if netns.startswith(places)
        for obj in state[netns].values()
    ]


@pytest.mark.parametrize(("direct", "link"), [("false", "flannel.ipip"), ("true", "eth0")])
def test_routes_of_ipip_have_the_other_nodes_as_gateways(direct: str, link: str) -> None:
    """They are onlink in both cases, as flanneld sets the flag (pkg/backend/ipip/ipip.go)."""
    found = objects(f"backend: ipip, directRouting: {direct}", "node/worker2")
    (tunnel,) = [obj for obj in found if isinstance(obj, Ipip)]
    assert (tunnel.name, tunnel.local, tunnel.remote, tunnel.mtu) == (
        "flannel.ipip",
        "172.18.0.4",
        "",
        1480,
    )
    routes = {
        route.destination: (route.link, route.via, route.is_onlink)
        for route in found
        if isinstance(route, Route) and route.via.startswith("172.18.0.")
    }
    del routes["0.0.0.0/0"]
    assert routes == {
        "10.244.0.0/24": (link, "172.18.0.2", True),
        "10.244.1.0/24": (link, "172.18.0.3", True),
    }


@pytest.mark.parametrize(
    ("backend", "mtu"), [("vxlan", 1450), ("host-gw", 1500), ("ipip", 1480), ("wireguard", 1420)]
)
def test_pods_leave_room_for_the_headers(backend: str, mtu: int) -> None:
    found = objects(f"backend: {backend}", "pod/default/")
    assert {obj.mtu for obj in found if isinstance(obj, Veth)} == {mtu}


@pytest.mark.parametrize(
    ("backend", "unused"),
    [("vxlan", set()), ("ipip", {"vni"}), ("host-gw", {"vni", "directRouting"})],
)
def test_options_of_other_backends_are_reported(backend: str, unused: set[str]) -> None:
    mode = modes.load("cni", "flannel", {"backend": backend, "vni": 7, "directRouting": True})
    assert isinstance(mode, modes.ModeOptions)
    assert {finding.path[-1] for finding in mode.findings()} == unused
