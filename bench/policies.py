"""Benchmark network policies: labs with many of them, a changed label, and new connections.

Every pod of the lab is isolated by as many policies as there are for each pod.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.manifests import many
from bench.measure import (
    LAB,
    folder,
    heading,
    lab,
    quiet,
    ratio,
    spread,
    table,
    timed_lab,
)
from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API

ROUNDS = 5
PODS, POLICIES = 1000, 1000
ENGINES = ("nftables", "iptables")
GROUPS = 50
"""Number of Deployments of the lab, each with a Service."""
CHANGES, CONNECTIONS = 12, 2000
PORT = 8080
TIMEOUT_S, REFUSED_AFTER_S = 10.0, 0.02
"""Timeouts of a change, and of one connection, which is repeated."""
PAUSE_S = 0.5
"""Pause between two changes."""
PROBE = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: client, labels: {{role: {role}}}}}
spec: {{containers: [{{name: main, image: agnhost, args: [netexec]}}]}}
"""
POLICY = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}}}
spec:
  podSelector: {{matchLabels: {{app: {subject}}}}}
  ingress: [{{from: [{{podSelector: {{matchLabels: {{{peer}}}}}}}], ports: [{{port: {port}}}]}}]
"""


def run(rounds: int = ROUNDS, pods: int = PODS, policies: int = POLICIES) -> None:
    """Print the tables."""
    print(heading(rounds))
    with folder() as files:
        plain, isolated = files / "plain.yaml", files / "isolated.yaml"
        text = many(pods, services=GROUPS, has_probes=False) + PROBE.format(role="friend")
        plain.write_text(text)
        isolated.write_text(text + "".join(_policies(policies)))
        one = files / "one.yaml"
        one.write_text(text + "".join(_policies(1)))
        engines = [engine for engine in ENGINES if _works(engine, one)]
        _print_creation(rounds, plain, isolated, engines, policies)
        rows = []
        for engine in engines:
            first = _connect_us(engine, one)
            in_force, connect = _measured(engine, isolated)
            rows.append(
                (
                    f"`{engine}`",
                    spread(in_force, "ms", 0)[0],
                    f"{max(in_force):.0f} ms",
                    f"{first:.1f} µs",
                    f"{connect:.1f} µs",
                    f"{connect / first:.2f}",
                )
            )
    head = ("engine", "label in force", "the slowest", "connect, 1", f"{policies:,}", "ratio")
    print(table(head, rows))


def _policies(count: int) -> Iterator[str]:
    """Yield policies, of which the first allows pods with the label `role: friend`."""
    yield POLICY.format(name="first", subject="web0", peer="role: friend", port=PORT)
    for number in range(1, count):
        group = number % GROUPS
        peer = f"app: web{(7 * number + 3) % GROUPS}"
        yield POLICY.format(name=f"p{number}", subject=f"web{group}", peer=peer, port=80 + number)


def _works(engine: str, manifest: Path) -> bool:
    """Return True if this machine has the engine."""
    try:
        with lab(manifest, options=("--policy", engine)):
            return True
    except Exception as error:  # it is shown, and the other engines are measured
        print(f"{engine} is not measured: {str(error).splitlines()[-1]}\n")
        return False


def _print_creation(
    rounds: int, plain: Path, isolated: Path, engines: Sequence[str], policies: int
) -> None:
    durations: dict[str, list[float]] = {engine: [] for engine in ("", *engines)}
    for _ in range(rounds):
        for engine, values in durations.items():
            with lab():
                arguments = (
                    ("-f", str(isolated), "--policy", engine) if engine else ("-f", str(plain))
                )
                values.append(timed_lab("up", *arguments))
    rows = [
        (
            f"{policies:,}, `{engine}`" if engine else "none",
            *spread(values),
            f"{ratio(values, durations['']):.2f}",
        )
        for engine, values in durations.items()
    ]
    print(table(("policies", "up", "range", "ratio"), rows))


@contextmanager
def _inside(netns: str) -> Iterator[None]:
    """Enter a network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inside = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(inside, CLONE_NEWNET)
        yield
    finally:
        setns(home, CLONE_NEWNET)
        os.close(inside)
        os.close(home)


def _ends(client: Client) -> tuple[str, list[str]]:
    """Return the namespace of the client, and an isolated pod of each node."""
    pods = client.inspect()["pods"]
    (netns,) = (pod["netns"] for pod in pods if pod["name"] == "client")
    targets = {pod["node"]: pod["addresses"][0] for pod in pods if pod["name"].startswith("web0-")}
    assert netns is not None
    return netns, list(targets.values())


def _connect_us(engine: str, manifest: Path) -> float:
    """Return the median time of a connection that the first policy allows, in µs."""
    with lab(manifest, options=("--policy", engine)):
        quiet()
        return _median_connect_us(Client(LAB))


def _median_connect_us(client: Client) -> float:
    netns, targets = _ends(client)
    durations = []
    with _inside(netns):
        for number in range(CONNECTIONS):
            started = time.perf_counter()
            with socket.create_connection((targets[number % len(targets)], PORT), 1):
                durations.append(time.perf_counter() - started)
    return 1e6 * statistics.median(durations)


def _measured(engine: str, manifest: Path) -> tuple[list[float], float]:
    """Return the times until a label is in force on all nodes in ms, and of a connection in µs."""
    with lab(manifest, options=("--policy", engine)):
        quiet()
        client = Client(LAB)
        connect = _median_connect_us(client)
        netns, targets = _ends(client)
        in_force = []
        for number in range(CHANGES):
            time.sleep(PAUSE_S)
            in_force.append(_change_ms(client, netns, targets, is_allowed=bool(number % 2)))
        return in_force, connect


def _change_ms(client: Client, netns: str, targets: Sequence[str], *, is_allowed: bool) -> float:
    """Change the label of the client; return the time until all nodes have the new verdict."""
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "labels": {"role": "friend" if is_allowed else "stranger"}},
        "spec": {"containers": [{"name": "main", "image": "agnhost", "args": ["netexec"]}]},
    }
    started = time.perf_counter()
    client.post(f"{LAB_API}/apply", {"documents": [document]})
    waiting, asked_at = set(targets), started
    with _inside(netns):
        while waiting:
            asked_at = time.perf_counter()
            assert asked_at - started < TIMEOUT_S, f"{len(waiting)} nodes have the old verdict"
            connected = _connected(waiting)
            waiting = waiting - connected if is_allowed else connected
    return 1000 * (asked_at - started)


def _connected(addresses: Iterable[str]) -> set[str]:
    """Return the addresses that answer a new connection in time; all are asked at once."""
    with ExitStack() as stack:
        sockets: dict[int, tuple[socket.socket, str]] = {}
        poll = select.poll()
        for address in addresses:
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex((address, PORT))
            poll.register(connection, select.POLLOUT)
            sockets[connection.fileno()] = connection, address
        deadline, result = time.monotonic() + REFUSED_AFTER_S, set[str]()
        while len(result) < len(sockets) and (remaining := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(1000 * remaining):
                connection, address = sockets[descriptor]
                poll.unregister(connection)
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    result.add(address)
        return result
