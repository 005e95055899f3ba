"""extraPortMappings: the client host's ports lead to nodes, as kind's lead there from the machine
with Docker.
"""

from __future__ import annotations

import json

import pytest

from tests.labs.lab import Lab
from tests.labs.world import World

MANIFEST = """\
apiVersion: kind.x-k8s.io/v1alpha4
kind: Cluster
networking: {ipFamily: dual}
nodes:
- role: control-plane
- role: worker
  extraPortMappings:
  - {containerPort: 30080, hostPort: 8080}
  - {containerPort: 30081, hostPort: 8081, protocol: UDP}
  - {containerPort: 7070}
  - {containerPort: 30080, hostPort: 9090, listenAddress: 127.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {hostNetwork: true, nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec, --http-port=7070, --udp-port=-1]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, {name: udp, port: 81, protocol: UDP, targetPort: 8081, nodePort: 30081}]
"""
MORE = "external: [{name: client, address: 198.51.100.10}, {name: other, address: 198.51.100.11}]"


@pytest.mark.parametrize("version", [4, 6])
def test_ports_of_the_client_lead_to_the_node(lab: Lab, version: int) -> None:
    """To its node ports and its own programs; who asks from elsewhere comes in by the client, whom
    the node sees.
    """
    lab.up(
        MANIFEST.replace("networking:", f"{MORE}\nnetworking:").replace(
            "kind.x-k8s.io/v1alpha4", "kubenetlab.dev/v1alpha1"
        )
    )
    world = World(lab, version)
    client, node = world.address("ext:client"), world.address("node:worker")
    for source in ("ext:client", "ext:other"):
        tcp, udp, own, local = world.ask(
            source,
            *(
                (protocol, client, port)
                for protocol, port in (("TCP", 8080), ("UDP", 8081), ("TCP", 7070), ("TCP", 9090))
            ),
        )
        assert [(answer.who, answer.seen[0]) for answer in (tcp, udp, own)] == [
            ("web", node),
            ("web", node),
            ("worker", client),
        ]
        assert local.error == "refused"
    if version == 4:
        answers = world.ask(
            "ext:client", *(("TCP", "127.0.0.1", port) for port in (8080, 9090, 7070))
        )
        assert [(answer.who, answer.seen[0]) for answer in answers] == [
            ("web", node),
            ("web", node),
            ("worker", client),
        ]
    assert world.ask("ext:other", ("TCP", world.address("ext:other"), 8080))[0].error == "refused"
    assert lab.run("ping", "-o", "json").json["ok"]


def test_mappings_come_and_go_on_a_running_lab(lab: Lab) -> None:
    """Nothing else changes; a document of kind's is read as it is."""
    lab.up(MANIFEST)
    world = World(lab, 4)
    before, target = lab.seen, ("TCP", world.address("ext:client"), 8080)
    assert world.ask("ext:client", target)[0].who == "web"
    lab.up(MANIFEST.replace("hostPort: 8080", "hostPort: 8088"))
    answers = world.ask("ext:client", target, ("TCP", world.address("ext:client"), 8088))
    assert [answer.error or answer.who for answer in answers] == ["refused", "web"]
    assert json.dumps(lab.seen) == json.dumps(before)
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_a_port_leads_to_one_node(lab: Lab) -> None:
    """Two mappings of one port are refused, and nothing is made."""
    said = lab.up(
        MANIFEST.replace("hostPort: 9090, listenAddress: 127.0.0.1", "hostPort: 8080"), status=2
    )
    assert (
        "nodes[1].extraPortMappings[3].hostPort: TCP port 8080 is already taken by nodes[1].extraPortMappings[0]"
        in said.err
    )
    said = lab.up(
        MANIFEST.replace("listenAddress: 127.0.0.1", "listenAddress: localhost"), status=2
    )
    assert 'listenAddress: expected an IP address, found "localhost"' in said.err


def test_what_takes_the_place_of_kinds_parts_is_named(lab: Lab) -> None:
    """`up` and `get clusters` name the CNI that runs for kindnet, and `up` says where published
    ports answer; they do answer there.
    """
    asked = MANIFEST.replace(
        "networking: {ipFamily: dual}", "networking: {ipFamily: dual, disableDefaultCNI: false}"
    )
    said = lab.up(asked).err
    assert "CNI mode bridge replaces kindnet" in said
    assert "kube-proxy mode is nftables; the default of kind is iptables (--proxy iptables)" in said
    published = "198.51.100.10:8080/TCP → worker:30080, 198.51.100.10:8081/UDP → worker:30081, 198.51.100.10:7070/TCP → worker:7070"
    places = "published ports answer on the external host client, and with --uplink on this machine"
    assert f"{places}: {published}, 127.0.0.1:9090/TCP → worker:30080" in said
    assert World(lab, 4).ask("ext:client", ("TCP", "198.51.100.10", 8080))[0].who == "web"
    (row,) = lab.run("get", "clusters").out.splitlines()[1:]
    assert row.split("   ")[1] == "bridge (replaces kindnet)"
    own = lab.up(
        asked.replace("kind.x-k8s.io/v1alpha4", "kubenetlab.dev/v1alpha1").replace(
            ", disableDefaultCNI: false", ""
        )
    ).err
    assert "kindnet" not in own
    assert "published ports answer" in own
    assert "kindnet" not in lab.run("get", "clusters").out


def test_a_kind_file_without_a_network_has_none(lab: Lab) -> None:
    """disableDefaultCNI: true is no CNI mode, in `get clusters` too."""
    lab.up(
        "apiVersion: kind.x-k8s.io/v1alpha4\nkind: Cluster\nnetworking: {disableDefaultCNI: true}\n",
        status=1,
    )
    assert lab.run("get", "clusters").out.splitlines()[1].split()[1] == "none"
