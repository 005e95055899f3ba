"""Annotations of kube-router: sessions, policies, and what is reported."""

from __future__ import annotations

import pytest

from kubenetlab.api.plugins.kube_router import node_settings
from kubenetlab.datapath.network.bird import bird_config
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.diagnostics import diagnose
from tests.clusters import problems_of, store
from tests.unit.datapath.network.test_calico_bgp import (
    CLUSTER,
    TOPOLOGY,
    sessions,
    speakers,
)

MESH = CLUSTER % ("kube-router", "{}")
ROUTED = CLUSTER % ("kube-router", TOPOLOGY)
NO_MESH = CLUSTER % ("{type: kube-router, nodesFullMesh: false}", "{}")
PASSWORD = "czNjcmV0"


def node(name: str, **annotations: str) -> str:
    pairs = ", ".join(
        f"kube-router.io/{key.replace('__', '-').replace('_', '.')}: '{value}'"
        for key, value in annotations.items()
    )
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, annotations: {{{pairs}}}}}\n---\n"
    )


def reported(text: str) -> list[tuple[str, str, str]]:
    """Return (code, subject, message) of each diagnostic."""
    return [(each.code, each.subject, each.message) for each in diagnose(store(text))]


def test_nodes_with_the_same_as_number_are_peers() -> None:
    """Without a full mesh. With it, the annotation has no effect, and that is reported."""
    racks = node("control-plane", node_asn="65001") + node("worker", node_asn="65001")
    racks += node("worker2", node_asn="65002")
    by_node = sessions(ROUTED + racks)
    assert [list(each) for each in by_node.values()] == [
        ["Router_172_18_0_1", "Mesh_172_18_0_3"],
        ["Router_172_18_0_1", "Mesh_172_18_0_2"],
        ["Router_172_18_0_1"],
    ]
    assert by_node["worker"]["Mesh_172_18_0_2"].as_number == 65001
    assert [each.as_number for each in speakers(ROUTED + racks).values()] == [65001, 65001, 65002]
    assert reported(ROUTED + racks) == []
    assert [each.as_number for each in speakers(MESH + racks).values()] == [64512] * 3
    assert [each[:2] for each in reported(MESH + racks)] == [
        ("bgp-setting-unused", f"Node {name}: metadata.annotations[kube-router.io/node.asn]")
        for name in ("control-plane", "worker", "worker2")
    ]


def test_nodes_without_an_as_number_start_no_bgp_in_a_cluster() -> None:
    """Only if the option says that there is no full mesh."""
    numbers = "".join(node(name, node_asn="65001") for name in ("control-plane", "worker"))
    codes = [code for code, *_ in reported(NO_MESH + numbers)]
    assert codes == ["bgp-route-missing", "bgp-setting-unused"]
    complete = NO_MESH + numbers + node("worker2", node_asn="65001")
    assert reported(complete) == []
    assert [len(each) for each in sessions(complete).values()] == [2, 2, 2]


@pytest.mark.parametrize(("cluster", "shown"), [("42", "0.0.0.42"), ("244.0.0.1", "244.0.0.1")])
def test_clients_have_sessions_with_reflectors_only(cluster: str, shown: str) -> None:
    """Reflectors pass their routes on, and have sessions with all nodes."""
    text = MESH + node("control-plane", rr_server=cluster)
    text += node("worker", rr_client=cluster) + node("worker2", rr_client=cluster)
    by_node = sessions(text)
    assert list(by_node["worker"]) == ["Mesh_172_18_0_2"]
    assert len(by_node["control-plane"]) == 2
    config = bird_config(speakers(text)["control-plane"])
    assert config.count(f"  rr client;\n  rr cluster id {shown};") == 2
    assert config.count("RTS_STATIC, RTS_BGP") == 2
    assert reported(text) == []
    alone = MESH + node("worker", rr_client="1") + node("worker2", rr_client="1")
    assert [code for code, *_ in reported(alone)] == ["bgp-route-missing"]


@pytest.mark.parametrize(
    "annotations",
    [
        {
            "peer_ips": "172.18.0.4, 172.18.0.1",
            "peer_asns": "65002,65000",
            "peer_ports": "1790,",
            "peer_passwords": f"{PASSWORD},",
            "peer_localips": ",172.18.0.3",
        },
        {
            "peers": "[{remoteip: 172.18.0.4, remoteasn: 65002, port: 1790, password: "
            f"{PASSWORD}}}, {{remoteip: 172.18.0.1, remoteasn: 65000, localip: 172.18.0.3}}]",
            "peer_ips": "192.0.2.1",
            "peer_asns": "1",
        },
    ],
    ids=["lists", "peers"],
)
def test_routers_of_annotations(annotations: dict[str, str]) -> None:
    """A router replaces the session of the fabric; `peers` replaces the lists."""
    text = ROUTED + node("worker", **annotations)
    by_name = sessions(text)["worker"]
    assert list(by_name) == ["Node_172_18_0_4", "Node_172_18_0_1"]
    first, second = by_name.values()
    assert (first.as_number, first.port, first.source) == (65002, 1790, "")
    assert (second.as_number, second.port, second.source) == (65000, 0, "172.18.0.3")
    assert first.password is not None
    assert first.password.reveal == b"s3cret"
    assert second.password is None
    assert "s3cret" not in repr(pod_network(store(text))[1])
    assert 'password "s3cret";' in bird_config(speakers(text)["worker"])


def test_routers_get_marks_and_nodes_do_not() -> None:
    """Communities and AS numbers of the annotations; ranges that are not imported concern all."""
    text = ROUTED + node(
        "worker",
        node_asn="65001",
        node_bgp_communities="65000:7, no-export, 4259840009",
        path__prepend_as="65001",
        path__prepend_repeat__n="2",
        node_bgp_customimportreject="10.244.2.0/24, fd00::/8",
    )
    text += node("worker2", node_asn="65001")
    router, mesh = bird_config(speakers(text)["worker"]).split("protocol bgp Mesh")
    marks = (
        "    bgp_community.add((65000, 7)); bgp_community.add((65535, 65281)); "
        "bgp_community.add((65000, 9)); bgp_path.prepend(65001); bgp_path.prepend(65001);\n"
    )
    refused = "    if net ~ [ 10.244.2.0/24{24,32} ] then reject;\n"
    assert (marks in router, marks in mesh) == (True, False)
    assert (refused in router, refused in mesh) == (True, True)
    ((code, _, message),) = reported(text)
    assert code == "bgp-route-missing"
    assert "worker gets no route to 10.244.2.0/24 of worker2: filters" in message


@pytest.mark.parametrize(
    ("annotations", "code", "message"),
    [
        ({"peer_ips": "172.18.0.1", "peer_asns": "1"}, "bgp-peer-unused", "is in AS 65000"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "1"}, "bgp-peer-absent", "nothing at 192.0.2.1"),
        ({"peer_ips": "fd00::1", "peer_asns": "1"}, "bgp-peer-unused", "no IPv6 address"),
        ({"bgp__local__addresses": "1.2.3.4"}, "not-enforced", "not enforced by this lab"),
        ({"pod__cidr": "10.9.0.0/24"}, "not-enforced", "not enforced by this lab"),
    ],
)
def test_annotations_without_effect_are_reported(
    annotations: dict[str, str], code: str, message: str
) -> None:
    ((found, _, text),) = reported(ROUTED + node("worker", **annotations))
    assert found == code
    assert message in text


def test_annotations_of_services_that_are_not_enforced() -> None:
    """Those of the service proxy only if kube-router is the service proxy."""
    service = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: {%s: x, "
        "kube-router.io/service.local: ''}}\nspec: {ports: [{port: 80}], clusterIP: None}\n---\n"
    )
    proxy = MESH.replace("cni: kube-router", "cni: {type: kube-router, serviceProxy: true}")
    proxy = proxy.replace("networking: {", "networking: {kubeProxyMode: none, ")
    scheduler, skipped = (
        service % f"kube-router.io/service.{name}" for name in ("scheduler", "skiplbips")
    )

    def codes(text: str) -> list[str]:
        return [code for code, *_ in reported(text) if code == "not-enforced"]

    assert codes(MESH + scheduler) == []
    assert codes(proxy + scheduler) == ["not-enforced"]
    assert codes(MESH + skipped) == ["not-enforced"]
    assert codes(CLUSTER % ("bridge", "{}") + skipped) == []


def test_annotations_of_calico_for_nodes() -> None:
    """Addresses other than the node's are not enforced; what calico-node writes is ignored."""
    text = (
        CLUSTER % ("calico", "{}") + "apiVersion: v1\nkind: Node\nmetadata: {name: worker, "
        "annotations: {projectcalico.org/IPv4Address: %s/24, "
        "projectcalico.org/IPv4VXLANTunnelAddr: 10.1.1.1}}\n---\n"
    )
    assert reported(text % "172.18.0.3") == []
    ((code, subject, _),) = reported(text % "192.0.2.3")
    assert code == "not-enforced"
    assert subject == "Node worker: metadata.annotations[projectcalico.org/IPv4Address]"


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ({"node_asn": "0"}, "expected an AS number from 1 to 4294967294"),
        ({"rr_server": "x"}, "expected a number of 32 bits or an IPv4 address"),
        ({"rr_client": "1:2"}, "expected a number of 32 bits"),
        ({"peer_ips": "192.0.2.1"}, "expected the annotation kube-router.io/peer.asns, too"),
        ({"peer_ips": "192.0.2.1,", "peer_asns": "1,1"}, "expected an address"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "1,2"}, "expected 1 entries"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "1", "peer_ports": "0"}, "expected a port"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "1", "peer_passwords": "?"}, "in base64"),
        ({"peers": "remoteip"}, "expected a list of routers"),
        ({"peers": "[{remoteip: 1.2.3.4}]"}, "expected remoteasn of each router"),
        ({"peers": "[{remoteip: 1.2.3.4, remoteasn: 1, bfd: 1}]"}, "expected remoteip, "),
        ({"path__prepend_as": "65001"}, "path-prepend.repeat-n, too"),
        ({"node_bgp_communities": "70000:1"}, "expected communities such as"),
        ({"node_bgp_customimportreject": "10.0.0.1/8"}, "expected ranges of addresses"),
    ],
)
def test_invalid_annotations_are_refused(annotations: dict[str, str], problem: str) -> None:
    assert any(problem in str(each) for each in problems_of(node("worker", **annotations)))


def test_a_node_without_annotations_has_no_settings() -> None:
    assert node_settings({"a": "b"}) == node_settings({})
