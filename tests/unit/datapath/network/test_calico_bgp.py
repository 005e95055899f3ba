"""BGPConfiguration and BGPPeer: sessions of nodes, contradictions, and what is reported."""

from __future__ import annotations

import re

import pytest

from kubenetlab.datapath.network.bgp import Peer, Speaker, bgp_mode
from kubenetlab.datapath.network.bird import bird_config
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.diagnostics.bgp import check_bgp
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.errors import ManifestError
from tests.clusters import applied, problems_of, store

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane, labels: {rack: a}}, {role: worker, labels: {rack: a}},
        {role: worker, labels: {rack: b}}]
networking: {cni: %s}
fabric: %s
---
"""
CALICO = CLUSTER % ("calico", "{}")
TOPOLOGY = "{topology: switched, bgp: {asNumber: 65000}}"
NODE_3 = "apiVersion: v1\nkind: Node\nmetadata: {name: worker2, annotations: {%s: '%s'}}\n---\n"
SECRET = (
    "apiVersion: v1\nkind: Secret\nmetadata: {name: bgp, namespace: kube-system}\n"
    "stringData: {password: '%s'}\n---\n"
)
REFERENCE = "password: {secretKeyRef: {name: bgp, key: password}}"


def peer(spec: str, name: str = "tor", version: str = "projectcalico.org/v3") -> str:
    return f"apiVersion: {version}\nkind: BGPPeer\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def configuration(spec: str, name: str = "default") -> str:
    return (
        "apiVersion: crd.projectcalico.org/v1\nkind: BGPConfiguration\n"
        f"metadata: {{name: {name}}}\nspec: {spec}\n---\n"
    )


NO_MESH = configuration("{nodeToNodeMeshEnabled: false}")


def speakers(text: str) -> dict[str, Speaker]:
    cni, views = pod_network(store(text))
    mode = bgp_mode(cni)
    assert mode is not None
    return {view.name: mode.speaker(view) for view in views}


def sessions(text: str) -> dict[str, dict[str, Peer]]:
    """Return the sessions of each node by their names."""
    return {
        node: {each.name: each for each in speaker.peers}
        for node, speaker in speakers(text).items()
    }


def reported(text: str) -> list[tuple[str, str]]:
    cluster = store(text)
    return [(each.code, each.message) for each in check_bgp(cluster, Templates(cluster, ()))]


def test_a_peer_of_all_nodes_is_called_global() -> None:
    """The mesh stays; `crd.projectcalico.org/v1` is the same kind."""
    spec = "{peerIP: 192.0.2.1, asNumber: 65001}"
    for version in ("projectcalico.org/v3", "crd.projectcalico.org/v1"):
        by_node = sessions(CALICO + peer(spec, version=version))
        for of_node in by_node.values():
            assert of_node["Global_192_0_2_1"].as_number == 65001
            assert not of_node["Global_192_0_2_1"].is_direct
            assert len(of_node) == 3


@pytest.mark.parametrize("selection", ["nodeSelector: rack == 'b'", "node: worker2"])
def test_a_peer_of_some_nodes(selection: str) -> None:
    """An address on the network of the nodes needs no router."""
    spec = f"{{{selection}, peerIP: '172.18.0.1:1790', asNumber: 65001}}"
    by_node = sessions(CALICO + NO_MESH + peer(spec))
    assert [list(each) for each in by_node.values()] == [[], [], ["Node_172_18_0_1"]]
    session = by_node["worker2"]["Node_172_18_0_1"]
    assert session.is_direct
    assert session.port == 1790


def test_a_selected_peer_gets_the_reverse_session() -> None:
    """Nodes of rack a have sessions with rack b, and the other way round."""
    spec = "{nodeSelector: rack == 'a', peerSelector: rack == 'b'}"
    by_node = sessions(CALICO + NO_MESH + peer(spec))
    assert [list(each) for each in by_node.values()] == [
        ["Node_172_18_0_4"],
        ["Node_172_18_0_4"],
        ["Node_172_18_0_2", "Node_172_18_0_3"],
    ]
    codes = [code for code, _ in reported(CALICO + NO_MESH + peer(spec))]
    assert codes == ["bgp-route-missing"]  # control-plane and worker do not pass routes on


def test_a_route_reflector_has_no_session_of_the_mesh() -> None:
    """Nodes are its clients; its id is in their routes."""
    reflector = NODE_3 % ("projectcalico.org/RouteReflectorClusterID", "244.0.0.1")
    by_node = sessions(CALICO + reflector)
    assert list(by_node["worker2"]) == []
    assert list(by_node["worker"]) == ["Mesh_172_18_0_2"]
    assert [code for code, _ in reported(CALICO + reflector)] == ["bgp-route-missing"]
    text = CALICO + reflector + NO_MESH + peer("{peerSelector: rack == 'b'}")
    assert reported(text) == []
    by_node = sessions(text)
    assert list(by_node["worker"]) == ["Global_172_18_0_4"]
    assert {each.is_client for each in by_node["worker2"].values()} == {True}
    config = bird_config(speakers(text)["worker2"])
    assert config.count("rr cluster id 244.0.0.1;") == 2
    assert "RTS_STATIC, RTS_BGP" in config


def test_as_numbers_of_nodes() -> None:
    """The annotation of a node precedes the BGPConfiguration, and that the default of the mode."""
    text = CALICO + configuration("{asNumber: 64600}")
    assert {each.as_number for each in speakers(text).values()} == {64600}
    own = text + NODE_3 % ("projectcalico.org/ASNumber", "64700")
    assert [each.as_number for each in speakers(own).values()] == [64600, 64600, 64700]
    assert sessions(own)["worker"]["Mesh_172_18_0_4"].as_number == 64700


def test_settings_of_a_session_are_in_the_configuration_of_bird() -> None:
    spec = (
        "{peerIP: 192.0.2.1, asNumber: 65001, sourceAddress: None, keepOriginalNextHop: true, "
        f"numAllowedLocalASNumbers: 2, localASNumber: 64999, ttlSecurity: 3, {REFERENCE}}}"
    )
    config = bird_config(speakers(CALICO + NO_MESH + SECRET % "s3cret" + peer(spec))["worker"])
    session = config[config.index("protocol bgp") :]
    for line in (
        "local 0.0.0.0 as 64999;",
        "neighbor 192.0.2.1 as 65001;",
        "multihop 3;",
        "ttl security on;",
        "allow local as 2;",
        'password "s3cret";',
        "next hop keep;",
    ):
        assert line in session


def test_a_password_is_not_in_messages() -> None:
    text = CALICO + NO_MESH + SECRET % "s3cret"
    text += peer(f"{{peerIP: 192.0.2.1, asNumber: 65001, {REFERENCE}}}")
    assert "s3cret" not in repr(speakers(text))
    assert "s3cret" not in str(reported(text))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{peerIP: 192.0.2.1, asNumber: 0}", "expected an AS number from 1 to 4294967295, found 0"),
        ("{peerIP: 192.0.2.1}", "asNumber: expected the AS number of the router"),
        ("{peerIP: x, asNumber: 1}", "peerIP: expected an address"),
        ("{}", "expected either peerIP or peerSelector"),
        ("{peerIP: 192.0.2.1, asNumber: 1, peerSelector: all()}", "expected either"),
        ("{peerSelector: all(), asNumber: 1}", "cannot be combined with peerSelector"),
        ("{peerSelector: rack = 'a'}", "expected an operator after the label"),
        (
            "{node: worker, nodeSelector: all(), peerSelector: all()}",
            "cannot be combined with node",
        ),
        ("{peerSelector: all(), nextHopMode: Self, keepOriginalNextHop: true}", "nextHopMode"),
        ("{peerSelector: all(), password: {}}", "expected name and key of a Secret"),
        ("{peerSelector: all(), maxRestartTime: 2h}", "expected a duration from 1s to 4095s"),
        ("{peerSelector: all(), bfd: true}", "unknown field"),
    ],
)
def test_invalid_peers_are_refused(spec: str, problem: str) -> None:
    """Fields that are not implemented are reported as unknown."""
    assert any(problem in str(each) for each in problems_of(peer(spec), strict=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (configuration("{}", "worker"), 'only the BGPConfigurations "default" and "node."'),
        (
            configuration("{asNumber: 64600}", "node.worker"),
            'spec.asNumber: only the BGPConfiguration "default" has this field',
        ),
        (configuration("{serviceClusterIPs: [{cidr: x}]}"), "serviceClusterIPs[0].cidr"),
        (configuration("{communities: [{name: a, value: '70000:1'}]}"), "expected a community"),
        (
            configuration(
                "{communities: [{name: a, value: '1:1'}], "
                "prefixAdvertisements: [{cidr: 10.9.0.0/24, communities: [b]}]}"
            ),
            "names in spec.communities: a",
        ),
        (
            configuration("{prefixAdvertisements: [{cidr: x, communities: []}]}"),
            "prefixAdvertisements[0].cidr: expected a range",
        ),
        (configuration("{nodeMeshMaxRestartTime: soon}"), "expected a duration"),
        (NODE_3 % ("projectcalico.org/ASNumber", "0"), "expected an AS number"),
        (NODE_3 % ("projectcalico.org/RouteReflectorClusterID", "1"), "form of an IPv4 address"),
    ],
)
def test_invalid_configurations_are_refused(text: str, problem: str) -> None:
    assert any(problem in str(each) for each in problems_of(text, strict=True))


def test_options_and_manifests_do_not_contradict() -> None:
    """The finding is at the document that comes last."""
    own = CLUSTER % ("{type: calico, asNumber: 64800, nodeToNodeMesh: true}", "{}")
    with pytest.raises(ManifestError, match=r"spec.asNumber: 64600 contradicts networking.cni.as"):
        store(own + configuration("{asNumber: 64600}"))
    with pytest.raises(ManifestError, match="nodeToNodeMeshEnabled: false contradicts"):
        store(own + NO_MESH)
    store(own + configuration("{asNumber: 64800, nodeToNodeMeshEnabled: true}"))
    cluster = store(CALICO + configuration("{asNumber: 64600}"))
    with pytest.raises(ManifestError, match=r"networking.cni.asNumber: 64800 contradicts spec.as"):
        applied(cluster, own)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (peer("{node: n9, peerSelector: all()}"), "bgp-peer-unused", "selects no node"),
        (
            peer("{nodeSelector: rack == 'z', peerIP: 172.18.0.1, asNumber: 1}"),
            "bgp-peer-unused",
            "selects no node",
        ),
        (peer("{peerSelector: rack == 'z'}"), "bgp-peer-unused", "no node at the other end"),
        (peer("{peerIP: '2001:db8::1', asNumber: 1}"), "bgp-peer-unused", "no node has an IPv6"),
        (peer("{peerIP: 192.0.2.1, asNumber: 1}"), "bgp-peer-absent", "nothing at 192.0.2.1"),
        (peer("{peerIP: 172.18.0.1, asNumber: 1}"), "bgp-peer-absent", "nothing at 172.18.0.1"),
        (
            peer(f"{{peerSelector: all(), {REFERENCE}}}"),
            "bgp-password-missing",
            "there is no Secret kube-system/bgp",
        ),
        (
            SECRET.replace("password", "other") % "x"
            + peer(f"{{peerSelector: all(), {REFERENCE}}}"),
            "bgp-password-missing",
            "no key password; it has: other",
        ),
        (
            SECRET % ('"' * 3) + configuration(f"{{nodeMeshPassword: {REFERENCE[10:]}}}"),
            "bgp-password-missing",
            "is no password",
        ),
        (NO_MESH, "bgp-route-missing", "gets no route to the pods of worker, and 5 more"),
    ],
)
def test_settings_without_effect_are_reported(text: str, code: str, message: str) -> None:
    """With the object and the field."""
    ((found, text_found),) = reported(CALICO + text)
    assert found == code
    assert message in text_found


def test_a_mode_without_bgp_uses_no_peer() -> None:
    for cni in ("{type: calico, backend: vxlan}", "flannel", "kube-router"):
        text = CLUSTER % (cni, "{}") + peer("{peerSelector: all()}")
        assert [code for code, _ in reported(text)] == ["bgp-peer-unused"]


def test_a_peer_with_the_router_replaces_the_session_of_the_fabric() -> None:
    """With another AS number than the router has, it is reported."""
    cluster = CLUSTER % ("calico", TOPOLOGY)
    right = cluster + peer("{peerIP: 172.18.0.1, asNumber: 65000}")
    assert list(sessions(right)["worker"]) == ["Global_172_18_0_1"]
    assert reported(right) == []
    wrong = cluster + peer("{peerIP: 172.18.0.1, asNumber: 65001}")
    ((code, message),) = reported(wrong)
    assert code == "bgp-peer-unused"
    assert "is in AS 65000" in message


SERVICES = """\
apiVersion: v1
kind: Node
metadata:
  name: control-plane
  labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: 10.96.7.7, externalIPs: [192.0.2.80], ports: [{port: 80}]}
---
"""


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ("serviceClusterIPs: [{cidr: 10.96.0.0/16}]", ("10.96.0.0/16",)),
        ("serviceExternalIPs: [{cidr: 192.0.2.0/24}]", ("192.0.2.0/24",)),
        ("serviceExternalIPs: [{cidr: 192.0.2.80/32}]", ("192.0.2.80/32",)),
        ("serviceExternalIPs: [{cidr: 192.0.2.81/32}]", ()),
        ("serviceClusterIPs: [{cidr: 'fd00:10:96::/112'}]", ("fd00:10:96::/112",)),
        ("serviceLoadBalancerIPs: []", ()),
    ],
)
def test_nodes_announce_ranges_of_services(ranges: str, expected: tuple[str, ...]) -> None:
    """An excluded node announces none. No node adds routes to them to its kernel."""
    by_node = speakers(CALICO + SERVICES + configuration(f"{{{ranges}}}"))
    assert [each.services for each in by_node.values()] == [(), expected, expected]
    config = bird_config(by_node["control-plane"])
    assert ("net !~ [ 10.96.0.0/16+ ]" in config) == ("10.96.0.0/16" in expected)


def test_services_are_announced_to_routers_only() -> None:
    """Other nodes translate the addresses themselves."""
    text = CLUSTER % ("{type: calico, nodeToNodeMesh: true}", TOPOLOGY)
    text += SERVICES + configuration("{serviceClusterIPs: [{cidr: 10.96.0.0/16}]}")
    config = bird_config(speakers(text)["worker"])
    blocks = re.findall(r"^protocol bgp (\w+) [^{]*{\n(.*?)^}", config, re.MULTILINE | re.DOTALL)
    by_name = dict(blocks)
    assert (
        'export where source ~ [ RTS_STATIC ] && !(proto = "services4");'
        in (by_name["Mesh_172_18_0_4"])
    )
    assert "services4" not in by_name["Router_172_18_0_1"]
