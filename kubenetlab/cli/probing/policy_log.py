"""policy log: packets that network policies drop, with names instead of addresses."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec import Struct, structs, to_builtins

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.input.short_options import Command, Group
from kubenetlab.cli.policies import policy_engine
from kubenetlab.cli.probing.drop_reasons import DropReasons
from kubenetlab.cli.probing.packet_filters import running_nodes, selected_nodes, selected_pods
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, note, print_table
from kubenetlab.cli.terminal.theme import BAD, WARNING, paint
from kubenetlab.errors import LabError
from kubenetlab.lab.paths import LAB_API
from kubenetlab.names import POLICY_LOG_GROUP, POLICY_TRACE_GROUP, socket_address

if TYPE_CHECKING:
    from kubenetlab.kernel.netlink.packet_log import LoggedPacket
    from kubenetlab.kernel.rules.policy_drops import DropLog
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.inspection import InspectedNode, Inspection

_COUNTED: Final = {
    "nftables": re.compile(
        r'counter packets (?P<packets>\d+) bytes \d+ .*?log prefix "(?P<reason>[^"]*)" '
        rf"group {POLICY_LOG_GROUP}\b"
    ),
    "cilium": re.compile(
        r"^cilium_drops (?P<packets>\d+) packets dropped: (?P<reason>.*)$", re.MULTILINE
    ),
}
"""Backend → lines of its listing with the number of packets that a rule has dropped."""
LOGGED: Final = "logged"
_LOG_GROUPS: Final = {POLICY_LOG_GROUP: "dropped", POLICY_TRACE_GROUP: LOGGED}
"""Group of listeners → what policies do with its packets."""
_CHECK_S: Final = 1.0
"""Time between two checks that the lab still runs while there are no packets, in seconds."""
_PROBES_S: Final = 2.0
"""Time allowed for probes of other commands, which read the log of a node meanwhile, in seconds."""
_RETRY_S: Final = 0.05
"""Time between two attempts to open a log, in seconds."""
_BATCH_S: Final = 0.05
"""Time in which packets of several nodes are collected, to show them in the order of time."""


class _Commands(Group):
    """Commands about network policies."""


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Show what network policies do with packets.",
)


class DropCount(Struct, frozen=True):
    """Number of packets that one rule of a node has dropped."""

    node: str
    reason: str
    packets: int


class ShownPacket(Struct, frozen=True):
    """A packet that a policy has dropped, or logged."""

    at_s: float
    node: str
    source: str
    """Name of the pod, node or host; its address if the lab does not know it."""
    source_address: str
    source_port: int
    destination: str
    destination_address: str
    destination_port: int
    protocol: str
    reason: str
    verdict: str = "dropped"
    """dropped, or logged by a rule with the action Log."""

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at_s))
        source = _end(self.source, self.source_address, self.source_port)
        destination = _end(self.destination, self.destination_address, self.destination_port)
        return (
            f"{clock}.{int(self.at_s * 1000) % 1000:03} {self.node}  {source} → {destination} "
            f"{self.protocol}: {'logged by ' if self.verdict == LOGGED else ''}{self.reason}"
        )


@app.callback(invoke_without_command=False)
def policy() -> None:
    """Show what network policies do with packets.

    Example: kubenetlab policy log -w
    """


@app.command("log", cls=Command)
def policy_log(
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Print dropped packets until you press Ctrl-C.")
    ] = False,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            metavar="NODE",
            help="Only packets that this node drops. Default: all nodes.",
            autocompletion=candidates("nodes"),
        ),
    ] = None,
    pod: Annotated[
        str | None,
        typer.Option(
            "--pod",
            metavar="POD",
            help=(
                "With -w, only packets from or to this pod (\\[ns/]name), "
                "or the pods of deploy:NAME."
            ),
            autocompletion=candidates("pods"),
        ),
    ] = None,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Show the packets that network policies drop or log.

    Without -w, print how many packets each rule has dropped on each node.
    With -w, print each packet as it is dropped: time, node, both ends by
    their names, and the policies that isolate the pod or the rule that denies
    the packet; also those that rules of Calico with the action Log match. A node
    logs for one process at a time.

    Example: kubenetlab policy log -w --pod web
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab

    client = select_lab(lab)
    inspected = client.inspect()
    if (engine := policy_engine(inspected)) == "none":
        raise UsageError(
            f"the policy engine of lab {client.lab} is {engine}: it drops no packets; "
            "kubenetlab up --policy nftables enforces policies"
        )
    nodes = selected_nodes(inspected, node)
    pods = selected_pods(inspected, pod, namespace)
    if pods is not None and not watch:
        raise UsageError("--pod needs -w: rules are not counted for each pod")
    running = running_nodes(nodes)
    if watch:
        with _readers(client, inspected, running) as readers:
            _follow(client, inspected, readers, pods, output)
    else:
        _show_counts(client, running, output)
    if len(running) < len(nodes):
        raise typer.Exit(1)


def _show_counts(client: Client, nodes: Sequence[InspectedNode], output: Output) -> None:
    reasons = DropReasons(client)
    counts = [
        structs.replace(count, reason=reasons.whole(count.reason))
        for node in nodes
        for count in drop_counts(
            node["name"], client.get(f"{LAB_API}/detail", netns=node["sandbox"])["listings"]
        )
    ]
    if output.is_data:
        print_document({"counts": to_builtins(counts), "packets": []}, output)
        return
    if not counts:
        echo("no policy has dropped a packet")
    else:
        print_table(
            ("NODE", "REASON", "PACKETS"),
            [(count.node, count.reason, str(count.packets)) for count in counts],
            numbers=("PACKETS",),
        )
    hint("kubenetlab policy log -w")


def drop_counts(node: str, listings: Mapping[str, str]) -> list[DropCount]:
    """Return the numbers of dropped packets for each reason.

    listings: backend → text. nft lists the rules of iptables, too.
    """
    packets: dict[str, int] = {}
    for backend, pattern in _COUNTED.items():
        for match in pattern.finditer(listings.get(backend, "")):
            reason = match["reason"]
            packets[reason] = packets.get(reason, 0) + int(match["packets"])
    return [DropCount(node, reason, number) for reason, number in packets.items() if number]


def _follow(
    client: Client,
    inspected: Inspection,
    readers: Sequence[tuple[str, str, DropLog]],
    pods: frozenset[str] | None,
    output: Output,
) -> None:
    """Print packets as they are dropped; return when the lab has ended."""
    names, reasons = host_names(inspected), DropReasons(client)
    poll = select.epoll()
    for *_, reader in readers:
        poll.register(reader.fileno(), select.EPOLLIN)
    note("waiting for dropped packets; press Ctrl-C to end")
    while True:
        if not poll.poll(_CHECK_S):
            _ = client.init_pid  # raises LabError if the lab is no longer up
            continue
        time.sleep(_BATCH_S)
        packets = [
            (name, packet, verdict) for name, verdict, reader in readers for packet in reader.read()
        ]
        if any(
            address not in names
            for _, packet, _ in packets
            for address in (packet.source, packet.destination)
        ):
            names = {**names, **host_names(client.inspect())}
        dropped = [
            named_packet(node, packet, names, reasons.whole(packet.prefix), verdict)
            for node, packet, verdict in packets
        ]
        if pods is not None:
            dropped = [each for each in dropped if pods & {each.source, each.destination}]
        if output.is_data and dropped:
            print_document({"counts": [], "packets": to_builtins(dropped)}, output)
        elif not output.is_data:
            for each in sorted(dropped, key=lambda packet: packet.at_s):
                text = str(each)
                start, end = text[: -len(each.reason)], text[-len(each.reason) :]
                echo(start + paint(end, WARNING if each.verdict == LOGGED else BAD))
        sys.stdout.flush()


def named_packet(
    node: str,
    packet: LoggedPacket,
    names: dict[str, str],
    reason: str,
    verdict: str = "dropped",
) -> ShownPacket:
    """Return a packet with the names of its ends, and the reason why it was dropped or logged."""
    return ShownPacket(
        round(packet.at_s, 3),
        node,
        names.get(packet.source, packet.source),
        packet.source,
        packet.source_port,
        names.get(packet.destination, packet.destination),
        packet.destination,
        packet.destination_port,
        packet.protocol,
        reason,
        verdict,
    )


def host_names(inspected: Inspection) -> dict[str, str]:
    """Return address → `namespace/name`, `svc:…`, `node:NAME` or `ext:NAME`."""
    names = {
        address: f"svc:{service['namespace']}/{service['name']}"
        for service in inspected["services"]
        for address in (*service["cluster_ips"], *service["load_balancer_ips"])
    }
    names |= {
        address: f"{pod['namespace']}/{pod['name']}"
        for pod in inspected["pods"]
        for address in pod["addresses"]
    }
    for kind, hosts in (("node", inspected["nodes"]), ("ext", inspected["external"])):
        names |= {
            address: f"{kind}:{host['name']}" for host in hosts for address in host["addresses"]
        }
    return names


def _end(name: str, address: str, port: int) -> str:
    """Return one end of a packet: its name, and its address and port."""
    shown = socket_address(address, port) if port else address
    return shown if name == address else f"{name} ({shown})"


@contextmanager
def _readers(
    client: Client, inspected: Inspection, nodes: Sequence[InspectedNode]
) -> Iterator[list[tuple[str, str, DropLog]]]:
    """Yield (node, verdict, listener) for each node that runs. Raises LabError."""
    from kubenetlab.errors import RequirementError
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.kernel.syscalls import open_namespace

    running = [(node["name"], node["netns"]) for node in nodes if node["netns"] is not None]
    if not running:
        raise LabError(f"no selected node of lab {client.lab} runs")
    if policy_engine(inspected) == "ebpf" and os.geteuid() != 0:
        raise RequirementError(
            "policy log: only root may read the events of eBPF programs. "
            "Run sudo kubenetlab policy log -w"
        )
    enter_lab(client.open_init())
    with ExitStack() as stack:
        home = open_namespace("net")
        stack.callback(os.close, home)
        readers: list[tuple[str, str, DropLog]] = []
        for name, path in running:
            for group, verdict in _LOG_GROUPS.items():
                readers.append((name, verdict, _open_log(path, home, group)))
                stack.callback(readers[-1][-1].close)
        yield readers


def _open_log(path: str, home: int, group: int) -> DropLog:
    """Open a log of a node; wait for probes that read it. Raises LabError."""
    from kubenetlab.kernel.rules.policy_drops import open_log
    from kubenetlab.kernel.syscalls import inside_network

    deadline = time.monotonic() + _PROBES_S
    while True:
        try:
            with inside_network(os.open(path, os.O_RDONLY | os.O_CLOEXEC), home):
                return open_log(group)
        except LabError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_S)
