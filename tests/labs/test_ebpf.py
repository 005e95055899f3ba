"""What is the mode ebpf's alone: fragments and errors are translated by programs of ours, and those
outlive whoever put them there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from kubenetlab.kernel.rules.libbpf import LIBRARY, Libbpf, has_library
from tests.labs.lab import wait_for
from tests.labs.test_ways_in import manifest
from tests.labs.world import Labs, World
from tests.patience import patiently

pytestmark = pytest.mark.skipif(
    not has_library(), reason=f"{LIBRARY} is missing (apt-get install libbpf1)"
)

SOURCES = ("a", "b", "c", "node:worker", "node:worker2", "ext:client")
MORE = """---
apiVersion: v1
kind: Service
metadata: {name: closed}
spec: {type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {app: c}, ports: [{port: 80, protocol: UDP, targetPort: 9, nodePort: 30200}]}
"""
DATAGRAM = """
import json, socket, sys
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(float(sys.argv[4]))
client.connect((address, port))
text = "".join(chr(97 + index % 26) for index in range(size))
try:
    client.send(b"echo " + text.encode())
    answer = client.recv(65536).decode().strip()
    print(json.dumps("whole" if answer == text else "another"))
except OSError as error:
    print(json.dumps(type(error).__name__))
"""
LISTENER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data.upper())
"""
TALKER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(lambda layout, family: manifest(layout, family, "ebpf") + MORE)
    yield labs
    labs.end()


@pytest.fixture(
    scope="module",
    params=[
        ("onlink", "dual", 4),
        ("onlink", "dual", 6),
        ("routed", "dual", 4),
        ("routed", "dual", 6),
    ],
    ids=str,
)
def world(request: pytest.FixtureRequest, of_kind: Labs) -> World:
    layout, family, version = request.param
    return World(of_kind.of(layout, family), version)


def datagram(world: World, source: str, way: tuple[str, int], size: int) -> str:
    """What becomes of a datagram of this size that asks for its own text."""
    words = (
        sys.executable,
        "-S",
        "-E",
        "-c",
        DATAGRAM,
        way[0],
        str(way[1]),
        str(size),
        str(patiently(2)),
    )
    found: str = json.loads(world.lab.inside(world.places[source], *words))
    return found


def ways(world: World, name: str, port: int, node_port: int, source: str) -> list[tuple[str, int]]:
    """To a Service from somewhere: its cluster IP from inside, a node's port from everywhere."""
    inside = [(world.services[name], port)] if not source.startswith("ext:") else []
    return [*inside, (world.address("node:control-plane"), node_port)]


@pytest.mark.parametrize("source", SOURCES)
def test_large_datagrams_come_and_go_in_fragments(world: World, source: str) -> None:
    """Each is put together where it arrives, the answers too."""
    for way in ways(world, "open", 80, 30080, source):
        assert datagram(world, source, way, 4000) == "whole", way


@pytest.mark.parametrize("source", SOURCES)
def test_a_pods_refusal_reaches_who_asked_its_service(world: World, source: str) -> None:
    """An ICMP error about a packet that was translated finds its way back, and the client's socket
    knows what it is about.
    """
    for way in ways(world, "closed", 80, 30200, source):
        assert datagram(world, source, way, 10) == "ConnectionRefusedError", way


def test_no_rule_of_netfilter_is_for_services(world: World) -> None:
    """The only tables are those that masquerade what leaves the cluster."""
    tables = world.lab.inside(world.places["node:worker"], "nft", "list", "tables").splitlines()
    assert tables == ["table ip ip-masq-agent", "table ip6 ip-masq-agent"]


def test_a_new_node_agent_listens_again(world: World) -> None:
    """A link from which somebody takes the programs gets them again, whoever put them there."""
    lab, node, link = world.lab, world.places["node:worker"], world.places["a"]["host_ifname"]

    def programs() -> int:
        return lab.inside(node, "tc", "filter", "show", "dev", link, "ingress").count(
            "coming direct-action"
        )

    for _ in range(2):
        lab.inside(node, "tc", "filter", "del", "dev", link, "ingress")
        wait_for(programs, "the program")
        lab.kill("node-agent-0")
    lab.inside(node, "tc", "qdisc", "del", "dev", link, "clsact")
    wait_for(programs, "the programs of a link that has lost its qdisc")


def test_an_entry_that_somebody_takes_away_is_made_again(world: World) -> None:
    """Of what Services are as the node's programs know them."""
    with without_fronts(world) as (before, now):
        wait_for(lambda: now() == before, "the fronts as they were")
    (answer,) = world.ask("a", ("TCP", world.services["open"], 80))
    assert answer.who == "b"


def test_an_entry_that_somebody_takes_away_is_left_so_where_that_is_asked_for(world: World) -> None:
    """With `drift: keep` it is told, and made again by the next `up`."""
    lab = world.lab
    lab.run("up", "--drift", "keep")

    def told() -> int:
        return (lab.directory / "log").read_text().count("(drift: keep)")

    told_before = told()
    with without_fronts(world) as (before, now):
        wait_for(lambda: told() > told_before, "a word of it")
        assert "+ bpf" in lab.run("diff", status=1).out
        assert now() == {}
        lab.run("up", "--drift", "repair")
        assert now() == before
    assert lab.run("diff").status == 0


@contextmanager
def without_fronts(
    world: World,
) -> Iterator[tuple[dict[bytes, bytes], Callable[[], dict[bytes, bytes]]]]:
    """What the programs of a node knew of Services' addresses, none of which is left, and how to
    ask what they know now.
    """
    filters = json.loads(
        world.lab.inside(
            world.places["node:worker"], "tc", "-j", "filter", "show", "dev", "eth0", "ingress"
        )
    )
    (program_id,) = (one["options"]["prog"]["id"] for one in filters if "options" in one)
    loaded = Libbpf().open_loaded({"coming": program_id})
    try:
        before = dict(loaded.entries("fronts"))
        for key in before:
            loaded.delete("fronts", key)
        yield before, lambda: dict(loaded.entries("fronts"))
    finally:
        loaded.close()


def test_a_connection_outlives_the_agents(world: World) -> None:
    """The programs are the links'. A pod that comes afterwards is served as any."""
    lab, port = world.lab, 7777
    spec = f"""---
apiVersion: v1
kind: Service
metadata: {{name: talk}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: c}}, ports: [{{port: 80, targetPort: {port}}}]}}
"""
    lab.apply(spec)
    place, late = World(lab, world.version), f"late-{world.version}"
    with ExitStack() as stack:
        server = stack.enter_context(program(place, "c", LISTENER, place.address("c"), port))
        assert next(server) == "ready"
        client = stack.enter_context(program(place, "a", TALKER, place.services["talk"], 80))
        assert client.send("before") == "BEFORE"
        lab.kill("agent")
        lab.kill("node-agent-0")
        assert client.send("meanwhile") == "MEANWHILE"
        lab.apply(
            f"{{apiVersion: v1, kind: Pod, metadata: {{name: {late}}}, spec: {{nodeName: worker, containers: [{{name: main, image: agnhost}}]}}}}"
        )
        wait_for(lambda: lab.pod(late)["ready"], "the new pod")
        after = World(lab, world.version)
        (answer,) = after.ask(late, ("TCP", after.services["open"], 80))
        assert (answer.who, answer.seen[0]) == ("b", after.address(late))
        assert client.send("after") == "AFTER"
    lab.run("delete", "-f", "-", given=spec)
    wait_for(lambda: not lab.faults, "a lab without faults")


@contextmanager
def program(
    world: World, where: str, text: str, *words: object
) -> Iterator[Generator[str, str, None]]:
    """A Python program in the network of a place: a generator of the lines that it prints, to which
    lines can be sent.
    """
    command = (
        "nsenter",
        f"--net={world.places[where]['netns']}",
        sys.executable,
        "-S",
        "-E",
        "-u",
        "-c",
        text,
        *map(str, words),
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def talk() -> Generator[str, str, None]:
            assert process.stdin is not None
            assert process.stdout is not None
            line = yield ""
            while True:
                if line:
                    process.stdin.write(f"{line}\n")
                    process.stdin.flush()
                line = yield process.stdout.readline().strip()

        lines = talk()
        next(lines)
        try:
            yield lines
        finally:
            process.kill()
