"""The option dsr of the mode ebpf.

Endpoints on other nodes see their clients and answer them directly, not through the node that the
client contacted.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.labs.lab import wait_for
from tests.labs.lab_view import LabView, SharedLab
from tests.labs.test_ebpf import datagram, program
from tests.labs.test_external_access import EXTERNAL_IPS, NODES, Outcome, manifest, outcomes
from tests.libbpf import NEEDS_LIBBPF

pytestmark = NEEDS_LIBBPF

NODE_PORT, UPLOAD_PORT = 30080, 30300
UPLOAD = f"""---
apiVersion: v1
kind: Service
metadata: {{name: upload}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {{app: b}}
  ports: [{{port: 80, targetPort: 7700, nodePort: {UPLOAD_PORT}}}]
"""
PACKET_COUNTER = """
import json, socket, sys
from ipaddress import ip_address
service, node = (ip_address(word).packed for word in sys.argv[1:3])
port, geneve = (number.to_bytes(2, "big") for number in (int(sys.argv[3]), 6081))
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind(("eth0", 0))
link.setblocking(False)
print("ready", flush=True)
for line in sys.stdin:
    counts = {"answers": 0, "forwarded": 0}
    while True:
        try:
            frame = link.recv(65536)
        except BlockingIOError:
            break
        is_ipv4 = frame[12:14] == b"\\x08\\x00"
        at, size, protocol = (26, 4, frame[23]) if is_ipv4 else (22, 16, frame[20])
        source, ports = frame[at : at + size], frame[at + 2 * size : at + 2 * size + 4]
        counts["answers"] += source == service and protocol in (6, 17) and ports[:2] == port
        counts["forwarded"] += source == node and protocol == 17 and ports[2:] == geneve
    print(json.dumps(counts), flush=True)
"""
UPLOAD_SERVER = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("ready", flush=True)
while True:
    connection, client = server.accept()
    digest = hashlib.sha256()
    while data := connection.recv(65536):
        digest.update(data)
    connection.sendall(f"{client[0]} {digest.hexdigest()}".encode())
    connection.close()
"""
UPLOAD_CLIENT = """
import hashlib, json, random, socket, sys
data = random.Random(1).randbytes(int(sys.argv[3]))
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    seen_client, digest = connection.recv(1000).decode().split()
print(json.dumps([seen_client, digest == hashlib.sha256(data).hexdigest()]))
"""


def with_direct_return(layout: str) -> str:
    return manifest(layout, "dual", "ebpf,dsr=true") + UPLOAD


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(with_direct_return)
    yield shared
    shared.down()


@pytest.fixture(
    scope="module", params=[("onlink", 4), ("onlink", 6), ("routed", 4), ("routed", 6)], ids=str
)
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    layout, version = request.param
    return LabView(shared_lab.up(layout), version)


def test_the_pod_sees_its_client_for_every_contacted_node(view: LabView) -> None:
    """This holds from outside and from pods, with TCP and UDP.

    Only connections of the pod itself and of its own node are masqueraded.
    """
    node_addresses = [view.address(node) for node in NODES]
    targets = [
        (address, NODE_PORT, protocol) for protocol in ("TCP", "UDP") for address in node_addresses
    ]
    for source in ("ext:client", "a", "c"):
        assert outcomes(view, source, *targets) == [("b", view.address(source))] * 6, source
    for node in ("node:control-plane", "node:worker2"):
        assert outcomes(view, node, *targets) == [("b", view.address(node))] * 6, node
    masqueraded = [("b", address) for address in node_addresses] * 2
    assert outcomes(view, "node:worker", *targets) == masqueraded
    assert outcomes(view, "b", *targets) == masqueraded


def test_load_balancer_and_external_ips_use_direct_return_too(view: LabView) -> None:
    """Source ranges of a load balancer are enforced, and the policy Local is unchanged."""
    client: Outcome = ("b", view.address("ext:client"))
    targets = [
        (view.load_balancer_ips["restricted"], 80),
        (view.load_balancer_ips["bare"], 80),
        (EXTERNAL_IPS["external"][view.version], 80),
    ]
    assert outcomes(view, "ext:client", *targets) == [client] * 3
    assert outcomes(view, "ext:stranger", targets[0])[0][0] == "silence"
    assert outcomes(view, "ext:client", (view.address("node:worker2"), 30090)) == [("c", client[1])]
    assert outcomes(view, "a", *targets[1:]) == [("b", view.address("a"))] * 2


def test_answers_bypass_the_contacted_node(view: LabView) -> None:
    """The contacted node forwards the client's packets.

    Answers leave the pod's node with the contacted address as their source.
    """
    contacted, pod_node = view.address("node:control-plane"), "node:worker"
    with ExitStack() as stack:
        counters = [
            stack.enter_context(
                program(view, node, PACKET_COUNTER, contacted, contacted, NODE_PORT)
            )
            for node in ("node:control-plane", pod_node, "node:worker2")
        ]
        assert [next(counter) for counter in counters] == ["ready"] * 3
        for protocol in ("TCP", "UDP"):
            assert outcomes(view, "ext:client", (contacted, NODE_PORT, protocol)) == [
                ("b", view.address("ext:client"))
            ]
            at_contacted, at_pod_node, at_other_node = counts = [Counter[str]() for _ in counters]

            def has_arrived(
                counts: list[Counter[str]] = counts,
                at_contacted: Counter[str] = at_contacted,
                at_pod_node: Counter[str] = at_pod_node,
            ) -> bool:
                for counter, count in zip(counters, counts, strict=True):
                    count.update(json.loads(counter.send("now")))
                return (
                    at_pod_node["answers"] > 0
                    and at_pod_node["forwarded"] == at_contacted["forwarded"] > 0
                )

            wait_for(has_arrived, "the forwarded packets to arrive at the pod's node")
            assert (at_contacted["answers"], +at_other_node) == (0, Counter()), protocol


@pytest.mark.parametrize("segments", [65535, 1], ids=["segmented late", "segmented at once"])
def test_large_uploads_arrive_whole(view: LabView, segments: int) -> None:
    """The client's kernel segments the data itself, or leaves that to the link.

    In the first case it has to learn the path MTU.
    """
    lab, place = view.lab, view.places["ext:client"]
    lab.inside(place, "ip", "link", "set", "eth0", "gso_max_segs", str(segments))
    try:
        with program(view, "b", UPLOAD_SERVER, view.address("b"), 7700) as receiver:
            assert next(receiver) == "ready"
            for node in NODES:
                words = (
                    sys.executable,
                    "-S",
                    "-E",
                    "-c",
                    UPLOAD_CLIENT,
                    view.address(node),
                    str(UPLOAD_PORT),
                    str(3_000_000),
                )
                assert json.loads(lab.inside(place, *words)) == [
                    view.address("ext:client"),
                    True,
                ], node
    finally:
        lab.inside(place, "ip", "link", "set", "eth0", "gso_max_segs", "65535")


def test_large_datagrams_arrive_once_the_client_knows_the_path_mtu(view: LabView) -> None:
    """The first datagram may be lost: its sender receives an ICMP error."""
    way = (view.address("node:control-plane"), NODE_PORT)
    wait_for(lambda: datagram(view, "ext:client", way, 4000) == "whole", "a datagram from outside")
    wait_for(
        lambda: datagram(view, "c", way, 4000) == "whole", "a datagram from another node's pod"
    )
