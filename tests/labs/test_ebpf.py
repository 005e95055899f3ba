"""The mode ebpf: its programs translate fragments and ICMP errors, and survive the agents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from kubenetlab.kernel.rules.libbpf import Libbpf
from tests.labs.lab import wait_for
from tests.labs.lab_view import LabView, SharedLab
from tests.labs.test_external_access import manifest
from tests.libbpf import NEEDS_LIBBPF
from tests.patience import patiently

pytestmark = NEEDS_LIBBPF

SOURCES = ("a", "b", "c", "node:worker", "node:worker2", "ext:client")
CLOSED_SERVICE = """---
apiVersion: v1
kind: Service
metadata: {name: closed}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: c}
  ports: [{port: 80, protocol: UDP, targetPort: 9, nodePort: 30200}]
"""
DATAGRAM_CLIENT = """
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
UPPERCASE_SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data.upper())
"""
LINE_CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(lambda layout, family: manifest(layout, family, "ebpf") + CLOSED_SERVICE)
    yield shared
    shared.down()


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
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    layout, family, version = request.param
    return LabView(shared_lab.up(layout, family), version)


def datagram(view: LabView, source: str, target: tuple[str, int], size: int) -> str:
    """Send an echo request of a size; return whether the answer is whole, or the error."""
    words = (
        sys.executable,
        "-S",
        "-E",
        "-c",
        DATAGRAM_CLIENT,
        target[0],
        str(target[1]),
        str(size),
        str(patiently(2)),
    )
    outcome: str = json.loads(view.lab.inside(view.places[source], *words))
    return outcome


def targets(
    view: LabView, name: str, port: int, node_port: int, source: str
) -> list[tuple[str, int]]:
    """Return the addresses of a Service for a source.

    They are its cluster IP, for sources inside the cluster, and a node port.
    """
    inside = [(view.cluster_ips[name], port)] if not source.startswith("ext:") else []
    return [*inside, (view.address("node:control-plane"), node_port)]


@pytest.mark.parametrize("source", SOURCES)
def test_large_datagrams_are_sent_and_answered_in_fragments(view: LabView, source: str) -> None:
    """The receivers reassemble requests and answers."""
    for target in targets(view, "open", 80, 30080, source):
        assert datagram(view, source, target, 4000) == "whole", target


@pytest.mark.parametrize("source", SOURCES)
def test_an_icmp_error_of_a_pod_reaches_the_client_of_its_service(
    view: LabView, source: str
) -> None:
    """The error is translated back, and the client's socket reports it."""
    for target in targets(view, "closed", 80, 30200, source):
        assert datagram(view, source, target, 10) == "ConnectionRefusedError", target


def test_services_need_no_netfilter_rules(view: LabView) -> None:
    """The only tables are those that masquerade traffic out of the cluster."""
    tables = view.lab.inside(view.places["node:worker"], "nft", "list", "tables").splitlines()
    assert tables == ["table ip ip-masq-agent", "table ip6 ip-masq-agent"]


def test_a_new_node_agent_restores_removed_programs(view: LabView) -> None:
    """This includes links whose programs the former agent had attached."""
    lab, node, link = view.lab, view.places["node:worker"], view.places["a"]["host_ifname"]

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


def test_removed_map_entries_are_restored(view: LabView) -> None:
    """The entries are the frontends of Services."""
    with without_frontends(view) as (before, current_entries):
        wait_for(lambda: current_entries() == before, "the former frontends")
    (answer,) = view.ask("a", ("TCP", view.cluster_ips["open"], 80))
    assert answer.server == "b"


def test_removed_map_entries_can_be_kept_removed(
    view: LabView,
) -> None:
    """With `drift: keep`, the removal is reported, and the next `up` restores the entries."""
    lab = view.lab
    lab.run("up", "--drift", "keep")

    def drift_reports() -> int:
        return (lab.directory / "log").read_text().count("(drift: keep)")

    reports_before = drift_reports()
    with without_frontends(view) as (before, current_entries):
        wait_for(lambda: drift_reports() > reports_before, "a report of the drift")
        assert "+ bpf" in lab.run("diff", status=1).out
        assert current_entries() == {}
        lab.run("up", "--drift", "repair")
        assert current_entries() == before
    assert lab.run("diff").status == 0


@contextmanager
def without_frontends(
    view: LabView,
) -> Iterator[tuple[dict[bytes, bytes], Callable[[], dict[bytes, bytes]]]]:
    """Remove all frontends from a node's maps.

    Yield the removed entries, and a function that returns the current ones.
    """
    filters = json.loads(
        view.lab.inside(
            view.places["node:worker"], "tc", "-j", "filter", "show", "dev", "eth0", "ingress"
        )
    )
    (program_id,) = (
        program_filter["options"]["prog"]["id"]
        for program_filter in filters
        if "options" in program_filter
    )
    loaded = Libbpf().open_loaded({"coming": program_id})
    try:
        before = dict(loaded.entries("fronts"))
        for key in before:
            loaded.delete("fronts", key)
        yield before, lambda: dict(loaded.entries("fronts"))
    finally:
        loaded.close()


def test_a_connection_survives_killed_agents(view: LabView) -> None:
    """The programs belong to the links. A later pod is served, too."""
    lab, port = view.lab, 7777
    spec = f"""---
apiVersion: v1
kind: Service
metadata: {{name: talk}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{app: c}}
  ports: [{{port: 80, targetPort: {port}}}]
"""
    lab.apply(spec)
    before_kill, late = LabView(lab, view.version), f"late-{view.version}"
    with ExitStack() as stack:
        server = stack.enter_context(
            program(before_kill, "c", UPPERCASE_SERVER, before_kill.address("c"), port)
        )
        assert next(server) == "ready"
        client = stack.enter_context(
            program(before_kill, "a", LINE_CLIENT, before_kill.cluster_ips["talk"], 80)
        )
        assert client.send("before") == "BEFORE"
        lab.kill("agent")
        lab.kill("node-agent-0")
        assert client.send("meanwhile") == "MEANWHILE"
        lab.apply(
            f"{{apiVersion: v1, kind: Pod, metadata: {{name: {late}}}, "
            "spec: {nodeName: worker, containers: [{name: main, image: agnhost}]}}"
        )
        wait_for(lambda: lab.pod(late)["ready"], "the new pod")
        after = LabView(lab, view.version)
        (answer,) = after.ask(late, ("TCP", after.cluster_ips["open"], 80))
        assert (answer.server, answer.client[0]) == ("b", after.address(late))
        assert client.send("after") == "AFTER"
    lab.run("delete", "-f", "-", stdin=spec)
    wait_for(lambda: not lab.problems, "a lab without problems")


@contextmanager
def program(
    view: LabView, place: str, text: str, *words: object
) -> Iterator[Generator[str, str, None]]:
    """Run a Python program in the network of a place.

    Yield a generator of the lines that it prints; lines can be sent to it.
    """
    command = (
        "nsenter",
        f"--net={view.places[place]['netns']}",
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
