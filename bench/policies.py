"""Benchmark network policies: labs with many of them, a changed label, and new connections.

Every pod of the lab is isolated by as many policies as there are for each pod.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
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
ENGINES = {
    "nftables": ("--policy", "nftables"),
    "iptables": ("--policy", "iptables"),
    "ebpf": ("--policy", "ebpf", "--cni", "cilium"),
}
"""Policy engine → options of `up`."""
GROUPS = 50
"""Number of Deployments of the lab, each with a Service."""
CHANGES, CONNECTIONS = 12, 2000
PORT = 8080
TIMEOUT_S, REFUSED_AFTER_S = 10.0, 0.02
"""Timeouts of a change, and of one connection."""
ROUND_S = 0.004
"""Time between two attempts to connect to all nodes: it is the precision of the measurement."""
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
            in_force, agent_ms, connect = _measured(engine, isolated)
            rows.append(
                (
                    f"`{engine}`",
                    spread(in_force, "ms", 0)[0],
                    f"{max(in_force):.0f} ms",
                    spread(agent_ms, "ms", 0)[0],
                    f"{first:.1f} µs",
                    f"{connect:.1f} µs",
                    f"{connect / first:.2f}",
                )
            )
    head = (
        "engine",
        "label in force",
        "the slowest",
        "agent's processor time",
        "connect, 1",
        f"{policies:,}",
        "ratio",
    )
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
        with lab(manifest, options=ENGINES[engine]):
            return True
    except Exception as error:  # it is shown, and the other engines are measured
        print(f"{engine} is not measured: {str(error).splitlines()[-1]}\n")
        return False


def _print_creation(
    rounds: int, plain: Path, isolated: Path, engines: Sequence[str], policies: int
) -> None:
    none, of_cilium = "none", "none, CNI mode cilium"
    arguments: dict[str, tuple[str, ...]] = {none: ("-f", str(plain))}
    baselines = {none: none}
    for engine in engines:
        baseline = none
        if engine == "ebpf":
            baseline = of_cilium
            arguments[of_cilium] = ("-f", str(plain), "--cni", "cilium")
            baselines[of_cilium] = of_cilium
        name = f"{policies:,}, `{engine}`"
        arguments[name] = ("-f", str(isolated), *ENGINES[engine])
        baselines[name] = baseline
    durations: dict[str, list[float]] = {name: [] for name in arguments}
    for _ in range(rounds):
        for name, values in durations.items():
            with lab():
                values.append(timed_lab("up", *arguments[name]))
    rows = [
        (name, *spread(values), f"{ratio(values, durations[baselines[name]]):.2f}")
        for name, values in durations.items()
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
    with lab(manifest, options=ENGINES[engine]):
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


def _measured(engine: str, manifest: Path) -> tuple[list[float], list[float], float]:
    """Return times until a label is in force on all nodes, of the agent, and of a connection.

    The first two are in ms, processor time of the agent until then; the last one is in µs.
    """
    with lab(manifest, options=ENGINES[engine]):
        quiet()
        client = Client(LAB)
        connect = _median_connect_us(client)
        netns, targets = _ends(client)
        agent = client.inspect()["agent_pid"]
        in_force, agent_ms = [], []
        for number in range(CHANGES):
            time.sleep(PAUSE_S)
            before = _processor_ms(agent)
            in_force.append(_change_ms(client, netns, targets, is_allowed=bool(number % 2)))
            agent_ms.append(_processor_ms(agent) - before)
        return in_force, agent_ms, connect


def _processor_ms(pid: int) -> float:
    """Return the processor time of the threads of a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


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
    with _inside(netns), _Rounds(targets) as rounds:
        while (in_force_at := rounds.first_with(is_allowed=is_allowed)) is None:
            assert time.perf_counter() - started < TIMEOUT_S, "some nodes have the old verdict"
            rounds.ask()
        return 1000 * (in_force_at - started)


class _Rounds(ExitStack):
    """Connections to all nodes, begun every few milliseconds, in the current namespace."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__()
        self._addresses = addresses
        self._poll = select.poll()
        self._rounds: list[tuple[float, set[int]]] = []
        """Begin of each round, and the sockets that have not connected."""
        self._round_of: dict[int, set[int]] = {}
        """Socket → the sockets of its round that have not connected."""

    def ask(self) -> None:
        """Begin a round, and read answers until the next one is due."""
        begun = time.perf_counter()
        waiting = set[int]()
        self._rounds.append((begun, waiting))
        for address in self._addresses:
            connection = self.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex((address, PORT))
            self._poll.register(connection, select.POLLOUT)
            waiting.add(connection.fileno())
            self._round_of[connection.fileno()] = waiting
        while (remaining := begun + ROUND_S - time.perf_counter()) > 0:
            for descriptor, event in self._poll.poll(1000 * remaining):
                self._poll.unregister(descriptor)
                if not event & select.POLLERR:
                    self._round_of[descriptor].discard(descriptor)

    def first_with(self, *, is_allowed: bool) -> float | None:
        """Return the begin of the first round with a verdict on all nodes; None if there is none.

        A connection is refused if it has not succeeded for REFUSED_AFTER_S.
        """
        latest = time.perf_counter() - REFUSED_AFTER_S
        for begun, waiting in self._rounds:
            if is_allowed and not waiting:
                return begun
            if not is_allowed and begun < latest and len(waiting) == len(self._addresses):
                return begun
        return None
