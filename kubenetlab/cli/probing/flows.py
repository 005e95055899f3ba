"""flows: print the flow events of the programs that forward packets between pods."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.describe.identities import identities
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.probing.packet_filters import running_nodes, selected_nodes, selected_pods
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import echo, hint, note
from kubenetlab.cli.terminal.theme import BAD, paint
from kubenetlab.errors import LabError

if TYPE_CHECKING:
    from kubenetlab.kernel.rules.flow_events import FlowReader
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.flows import Flow, FlowNames
    from kubenetlab.observe.inspection import IdentityTable, InspectedNode, Inspection

_CHECK_S: Final = 1.0
"""Time between two checks that the nodes still run while there are no events, in seconds."""
_BATCH_S: Final = 0.1
"""Time in which events of several nodes are collected, to show them in the order of time."""
_NAMES_S: Final = 0.2
"""Time after which names are read again while there are ends without one, in seconds.

A new pod sends and receives packets before the lab's state has its address.
"""


def flows(
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Print new events until you press Ctrl-C.")
    ] = False,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            metavar="NODE",
            help="Only events of this node. Default: all nodes.",
            autocompletion=candidates("nodes"),
        ),
    ] = None,
    pod: Annotated[
        str | None,
        typer.Option(
            "--pod",
            metavar="POD",
            help="Only packets from or to this pod (\\[ns/]name), or the pods of deploy:NAME.",
            autocompletion=candidates("pods"),
        ),
    ] = None,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Show what the eBPF programs of the CNI mode cilium do with each packet.

    A line has the time, the node, source and destination with their
    identities, the place of the program, the verdict, the direction, the
    state of the connection, and the Service that the client used.
    Without -w, print the events since the last call: each is shown once. A
    node keeps 256 KiB of them; the number of lost events is printed.
    Needs root. Like `hubble observe` and `cilium monitor`.

    Example: kubenetlab flows -w --pod client
    """
    from kubenetlab.lab.client import select_lab

    client = select_lab(lab)
    inspected = client.inspect()
    table = _identities(client)
    nodes = selected_nodes(inspected, node)
    pods = selected_pods(inspected, pod, namespace)
    running = running_nodes(nodes)
    with _readers(client, inspected, running) as readers:
        source = _Source(client, inspected, table, readers)
        is_alone = not watch
        while True:
            batch, lost = source.read()
            shown = [flow for flow in batch if pods is None or flow.concerns(pods)]
            _show(shown, lost, output, is_alone=is_alone)
            sys.stdout.flush()
            if is_alone:
                break
            source.wait()
    if len(running) < len(nodes):
        raise typer.Exit(1)
    if not output.is_data:
        hint("kubenetlab flows -w")


class _Source:
    """Flows of some nodes of a lab."""

    def __init__(
        self,
        client: Client,
        inspected: Inspection,
        table: IdentityTable,
        readers: Sequence[FlowReader],
    ) -> None:
        from kubenetlab.observe.flows import FlowNames

        self._client = client
        self._readers = list(readers)
        self._names: FlowNames = FlowNames(inspected, table)
        self._names_at = time.monotonic()
        self._poll = select.epoll()
        for reader in readers:
            self._poll.register(reader.fileno(), select.EPOLLIN)

    def read(self) -> tuple[list[Flow], dict[str, int]]:
        """Return the unread flows, and the number of lost events of each node that lost any."""
        from kubenetlab.observe.flows import FlowNames, flows_of

        events = [(reader.node, event) for reader in self._readers for event in reader.read()]
        lost = {reader.node: count for reader in self._readers if (count := reader.take_lost())}
        if not events:
            return [], lost
        is_old = time.monotonic() - self._names_at > _NAMES_S
        if not all(self._names.knows(event, is_final=not is_old) for _, event in events):
            self._names = FlowNames(self._client.inspect(), _identities(self._client))
            self._names_at = time.monotonic()
            self._names.keep_unknown(event for _, event in events)
        translations = {
            connection: target
            for reader in self._readers
            for connection, target in reader.translations()
        }
        offset_s = time.time() - time.monotonic()
        return flows_of(events, self._names, translations, offset_s), lost

    def wait(self) -> None:
        """Wait for new events, then until those of other nodes have arrived, too.

        Raises LabError when all nodes have ended: nothing writes to their ring buffers any more.
        """
        while True:
            has_events = bool(self._poll.poll(_CHECK_S))
            for reader in [reader for reader in self._readers if reader.has_ended]:
                self._poll.unregister(reader.fileno())
                self._readers.remove(reader)
                note(f"{paint('not read:', BAD)} node {reader.node} has ended or restarted")
            if not self._readers:
                raise LabError(f"no node of lab {self._client.lab} is left whose events are read")
            if has_events:
                time.sleep(_BATCH_S)
                return


def _identities(client: Client) -> IdentityTable:
    """Return the identities of the lab. Raises UsageError if its mode has no flow events."""
    from kubenetlab.errors import UsageError

    table = identities(client)
    if table["cni"] not in table["modes"]:
        known = ", ".join(table["modes"])
        raise UsageError(
            f"the CNI mode {table['cni']} of lab {client.lab} reports no flows: the kernel forwards"
            f" its packets, and not eBPF programs. CNI modes with flows: {known}. In this lab, use "
            "`kubenetlab exec node:NODE -- tcpdump`"
        )
    return table


@contextmanager
def _readers(
    client: Client, inspected: Inspection, nodes: Sequence[InspectedNode]
) -> Iterator[list[FlowReader]]:
    """Yield readers of the events of nodes that run. Raises LabError, also for an ordinary user."""
    from kubenetlab.errors import RequirementError
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.kernel.rules.flow_events import FlowReader
    from kubenetlab.kernel.syscalls import open_namespace

    if os.geteuid() != 0:
        raise RequirementError(
            "flows: only root may read the events of eBPF programs. Run sudo kubenetlab flows"
        )
    enter_lab(client.open_init())
    with ExitStack() as stack:
        home = open_namespace("net")
        stack.callback(os.close, home)
        readers = []
        for node in nodes:
            assert node["netns"] is not None
            lock = Path(inspected["run_directory"], f"flows-{node['name']}.lock")
            reader = FlowReader.open(node["name"], node["netns"], home, lock)
            stack.callback(reader.close)
            readers.append(reader)
        yield readers


def _show(flows: Sequence[Flow], lost: dict[str, int], output: Output, *, is_alone: bool) -> None:
    """Print flows, and how many events each node has lost.

    is_alone: True if an empty result is printed, too.
    """
    if output.is_data:
        if is_alone or flows or lost:
            print_document(_as_data(flows, lost), output)
        return
    for flow in flows:
        text = str(flow)
        echo(paint(text, BAD) if flow.verdict == "dropped" else text)
    for node, count in lost.items():
        note(
            f"{paint('lost:', BAD)} {count} events of node {node}: its ring buffer was full of "
            "events that no reader had taken"
        )
    if is_alone and not flows:
        note("no events since the last call")


def _as_data(flows: Sequence[Flow], lost: dict[str, int]) -> JsonObject:
    import msgspec

    return {"flows": msgspec.to_builtins(flows), "lost": lost}
