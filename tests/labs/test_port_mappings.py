"""extraPortMappings: ports of the external host `client` lead to nodes.

In kind, ports of the machine with Docker lead to nodes.
"""

from __future__ import annotations

import json

import pytest

from tests.labs.lab import Lab
from tests.labs.lab_view import LabView

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
spec:
  hostNetwork: true
  nodeName: worker
  containers: [{name: main, image: agnhost, args: [netexec, --http-port=7070, --udp-port=-1]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, port: 81, protocol: UDP, targetPort: 8081, nodePort: 30081}
"""
EXTERNAL_HOSTS = (
    "external: [{name: client, address: 198.51.100.10}, {name: other, address: 198.51.100.11}]"
)


@pytest.mark.parametrize("version", [4, 6])
def test_ports_of_the_client_lead_to_the_node(lab: Lab, version: int) -> None:
    """They lead to node ports and to programs of the node.

    Connections of other external hosts pass through the client, whose address the node sees.
    """
    lab.up(
        MANIFEST.replace("networking:", f"{EXTERNAL_HOSTS}\nnetworking:").replace(
            "kind.x-k8s.io/v1alpha4", "kubenetlab.dev/v1alpha1"
        )
    )
    view = LabView(lab, version)
    client, node = view.address("ext:client"), view.address("node:worker")
    for source in ("ext:client", "ext:other"):
        tcp, udp, host_program, loopback_only = view.ask(
            source,
            *(
                (protocol, client, port)
                for protocol, port in (("TCP", 8080), ("UDP", 8081), ("TCP", 7070), ("TCP", 9090))
            ),
        )
        assert [(answer.server, answer.client[0]) for answer in (tcp, udp, host_program)] == [
            ("web", node),
            ("web", node),
            ("worker", client),
        ]
        assert loopback_only.error == "refused"
    if version == 4:
        answers = view.ask(
            "ext:client", *(("TCP", "127.0.0.1", port) for port in (8080, 9090, 7070))
        )
        assert [(answer.server, answer.client[0]) for answer in answers] == [
            ("web", node),
            ("web", node),
            ("worker", client),
        ]
    assert view.ask("ext:other", ("TCP", view.address("ext:other"), 8080))[0].error == "refused"
    assert lab.run("ping", "-o", "json").json["ok"]


def test_mappings_can_change_in_a_running_lab(lab: Lab) -> None:
    """Nothing else changes. The document is that of kind."""
    lab.up(MANIFEST)
    view = LabView(lab, 4)
    before, target = lab.inspected, ("TCP", view.address("ext:client"), 8080)
    assert view.ask("ext:client", target)[0].server == "web"
    lab.up(MANIFEST.replace("hostPort: 8080", "hostPort: 8088"))
    answers = view.ask("ext:client", target, ("TCP", view.address("ext:client"), 8088))
    assert [answer.error or answer.server for answer in answers] == ["refused", "web"]
    assert json.dumps(lab.inspected) == json.dumps(before)
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_two_mappings_of_one_port_are_rejected(lab: Lab) -> None:
    """Nothing is created; an invalid listenAddress is rejected, too."""
    result = lab.up(
        MANIFEST.replace("hostPort: 9090, listenAddress: 127.0.0.1", "hostPort: 8080"), status=2
    )
    assert (
        "nodes[1].extraPortMappings[3].hostPort: TCP port 8080 is already taken by "
        "nodes[1].extraPortMappings[0]" in result.err
    )
    result = lab.up(
        MANIFEST.replace("listenAddress: 127.0.0.1", "listenAddress: localhost"), status=2
    )
    assert 'listenAddress: expected an IP address, found "localhost"' in result.err


def test_replacements_of_kinds_components_are_named(lab: Lab) -> None:
    """`up` and `get clusters` name the CNI that replaces kindnet.

    `up` names the addresses of published ports, which answer there.
    """
    kind_manifest = MANIFEST.replace(
        "networking: {ipFamily: dual}", "networking: {ipFamily: dual, disableDefaultCNI: false}"
    )
    errors = lab.up(kind_manifest).err
    assert "CNI mode bridge replaces kindnet" in errors
    assert (
        "kube-proxy mode is nftables; the default of kind is iptables (--proxy iptables)" in errors
    )
    published = (
        "198.51.100.10:8080/TCP → worker:30080, 198.51.100.10:8081/UDP → worker:30081, "
        "198.51.100.10:7070/TCP → worker:7070"
    )
    places = "published ports answer on the external host client, and with --uplink on this machine"
    assert f"{places}: {published}, 127.0.0.1:9090/TCP → worker:30080" in errors
    assert LabView(lab, 4).ask("ext:client", ("TCP", "198.51.100.10", 8080))[0].server == "web"
    (row,) = lab.run("get", "clusters").out.splitlines()[1:]
    assert row.split("   ")[1] == "bridge (replaces kindnet)"
    own_errors = lab.up(
        kind_manifest.replace("kind.x-k8s.io/v1alpha4", "kubenetlab.dev/v1alpha1").replace(
            ", disableDefaultCNI: false", ""
        )
    ).err
    assert "kindnet" not in own_errors
    assert "published ports answer" in own_errors
    assert "kindnet" not in lab.run("get", "clusters").out


def test_disable_default_cni_selects_no_cni(lab: Lab) -> None:
    """With disableDefaultCNI: true there is no CNI mode, also in `get clusters`."""
    lab.up(
        "apiVersion: kind.x-k8s.io/v1alpha4\nkind: Cluster\n"
        "networking: {disableDefaultCNI: true}\n",
        status=1,
    )
    assert lab.run("get", "clusters").out.splitlines()[1].split()[1] == "none"
