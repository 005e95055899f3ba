"""The option dsr of the mode ebpf: endpoints on other nodes see their clients, and answer them past
the node that was asked.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kubenetlab.kernel.rules.libbpf import LIBRARY, has_library
from tests.labs.lab import wait_for
from tests.labs.test_ebpf import datagram, program
from tests.labs.test_ways_in import EXTERNAL_IPS, NODES, Outcome, manifest, outcomes
from tests.labs.world import Labs, World

pytestmark = pytest.mark.skipif(
    not has_library(), reason=f"{LIBRARY} is missing (apt-get install libbpf1)"
)

NODE_PORT, UPLOAD_PORT = 30080, 30300
UPLOAD = f"""---
apiVersion: v1
kind: Service
metadata: {{name: upload}}
spec: {{type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {{app: b}}, ports: [{{port: 80, targetPort: 7700, nodePort: {UPLOAD_PORT}}}]}}
"""
WATCHER = """
import json, socket, sys
from ipaddress import ip_address
service, node, port = ip_address(sys.argv[1]).packed, ip_address(sys.argv[2]).packed, int(sys.argv[3])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
wire.setblocking(False)
print("ready", flush=True)
for line in sys.stdin:
    found = {"answers": 0, "handed on": 0}
    while True:
        try:
            frame = wire.recv(65536)
        except BlockingIOError:
            break
        at, size, protocol = (26, 4, frame[23]) if frame[12:14] == b"\\x08\\x00" else (22, 16, frame[20])
        source, ports = frame[at : at + size], frame[at + 2 * size : at + 2 * size + 4]
        found["answers"] += source == service and protocol in (6, 17) and ports[:2] == port.to_bytes(2, "big")
        found["handed on"] += source == node and protocol == 17 and ports[2:] == (6081).to_bytes(2, "big")
    print(json.dumps(found), flush=True)
"""
RECEIVER = """
import hashlib, socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready", flush=True)
while True:
    connection, client = server.accept()
    told = hashlib.sha256()
    while data := connection.recv(65536):
        told.update(data)
    connection.sendall(f"{client[0]} {told.hexdigest()}".encode())
    connection.close()
"""
SENDER = """
import hashlib, json, random, socket, sys
data = random.Random(1).randbytes(int(sys.argv[3]))
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    seen, found = connection.recv(1000).decode().split()
print(json.dumps([seen, found == hashlib.sha256(data).hexdigest()]))
"""


def with_direct_return(layout: str) -> str:
    return manifest(layout, "dual", "ebpf,dsr=true") + UPLOAD


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(with_direct_return)
    yield labs
    labs.end()


@pytest.fixture(
    scope="module", params=[("onlink", 4), ("onlink", 6), ("routed", 4), ("routed", 6)], ids=str
)
def world(request: pytest.FixtureRequest, of_kind: Labs) -> World:
    layout, version = request.param
    return World(of_kind.of(layout), version)


def test_the_pod_sees_who_asks_whichever_node(world: World) -> None:
    """From outside and from pods, by TCP and UDP; the pod itself is masqueraded, and its node by
    all but itself.
    """
    asked = [world.address(node) for node in NODES]
    ways = [(address, NODE_PORT, protocol) for protocol in ("TCP", "UDP") for address in asked]
    for source in ("ext:client", "a", "c"):
        assert outcomes(world, source, *ways) == [("b", world.address(source))] * 6, source
    for node in ("node:control-plane", "node:worker2"):
        assert outcomes(world, node, *ways) == [("b", world.address(node))] * 6, node
    mine = [("b", address) for address in asked] * 2
    assert outcomes(world, "node:worker", *ways) == mine
    assert outcomes(world, "b", *ways) == mine


def test_other_addresses_from_outside_do_as_well(world: World) -> None:
    """A load balancer's with its fence, and external IPs; the policy Local is what it is."""
    client: Outcome = ("b", world.address("ext:client"))
    ways = [
        (world.outside["fenced"], 80),
        (world.outside["bare"], 80),
        (EXTERNAL_IPS["given"][world.version], 80),
    ]
    assert outcomes(world, "ext:client", *ways) == [client] * 3
    assert outcomes(world, "ext:stranger", ways[0])[0][0] == "silence"
    assert outcomes(world, "ext:client", (world.address("node:worker2"), 30090)) == [
        ("c", client[1])
    ]
    assert outcomes(world, "a", *ways[1:]) == [("b", world.address("a"))] * 2


def test_answers_do_not_pass_the_node_that_was_asked(world: World) -> None:
    """It hands on what the client sends; what comes back leaves the pod's node as from the address
    that was asked.
    """
    first, own = world.address("node:control-plane"), "node:worker"
    with ExitStack() as stack:
        watchers = [
            stack.enter_context(program(world, node, WATCHER, first, first, NODE_PORT))
            for node in ("node:control-plane", own, "node:worker2")
        ]
        assert [next(watcher) for watcher in watchers] == ["ready"] * 3
        for protocol in ("TCP", "UDP"):
            assert outcomes(world, "ext:client", (first, NODE_PORT, protocol)) == [
                ("b", world.address("ext:client"))
            ]
            at_first, at_own, elsewhere = seen = [Counter[str]() for _ in watchers]

            def has_arrived(
                seen: list[Counter[str]] = seen,
                at_first: Counter[str] = at_first,
                at_own: Counter[str] = at_own,
            ) -> bool:
                for watcher, count in zip(watchers, seen, strict=True):
                    count.update(json.loads(watcher.send("now")))
                return at_own["answers"] > 0 and at_own["handed on"] == at_first["handed on"] > 0

            wait_for(has_arrived, "at the pod's node whatever the first node hands on")
            assert (at_first["answers"], +elsewhere) == (0, Counter()), protocol


@pytest.mark.parametrize("segments", [65535, 1], ids=["segmented late", "segmented at once"])
def test_large_uploads_arrive_whole(world: World, segments: int) -> None:
    """Whether the client's kernel cuts them, and has to learn how much fits, or leaves that to the
    link.
    """
    lab, place = world.lab, world.places["ext:client"]
    lab.inside(place, "ip", "link", "set", "eth0", "gso_max_segs", str(segments))
    try:
        with program(world, "b", RECEIVER, world.address("b"), 7700) as receiver:
            assert next(receiver) == "ready"
            for node in NODES:
                words = (
                    sys.executable,
                    "-S",
                    "-E",
                    "-c",
                    SENDER,
                    world.address(node),
                    str(UPLOAD_PORT),
                    str(3_000_000),
                )
                assert json.loads(lab.inside(place, *words)) == [
                    world.address("ext:client"),
                    True,
                ], node
    finally:
        lab.inside(place, "ip", "link", "set", "eth0", "gso_max_segs", "65535")


def test_large_datagrams_arrive_as_soon_as_the_client_knows_how_much_fits(world: World) -> None:
    """The first may be lost: its sender hears why."""
    way = (world.address("node:control-plane"), NODE_PORT)
    wait_for(lambda: datagram(world, "ext:client", way, 4000) == "whole", "a datagram from outside")
    wait_for(
        lambda: datagram(world, "c", way, 4000) == "whole", "a datagram from another node's pod"
    )
