"""Node agent: loads the rules of several nodes and probes their pods.

It does the work of kube-proxy and the kubelet on these nodes. It is a process of its own, so that
neither a large ruleset nor a crash in a C library stops the agent. When the agent restarts, rules
stay in the kernel and probes continue.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules.nftables import transactions
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.comparison import Compared, compare
from kubenetlab.kernel.syscalls import open_namespace, trim_memory
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.messages.node_agent import (
    AskStatus,
    AttachPod,
    CheckPod,
    CollectGarbage,
    CompareRules,
    Comparison,
    DetachPod,
    Generation,
    Generations,
    ListRules,
    LoadRules,
    Node,
    NodeAgentEvent,
    PrintRules,
    ProbeResult,
    ProbeResults,
    ReadGenerations,
    ReplaceProbes,
    RuleListing,
    RulesEdited,
    RulesLoaded,
    RulesRefused,
    RulesText,
)
from kubenetlab.lab.nodeagent.executor import Executor
from kubenetlab.lab.nodeagent.forked import in_child
from kubenetlab.lab.nodeagent.hooks import HookRun
from kubenetlab.lab.nodeagent.loaded_rules import LoadedRules
from kubenetlab.lab.nodeagent.network_plugins import NetworkPlugins
from kubenetlab.lab.nodeagent.ping_sweep import PingSweep, is_sweepable
from kubenetlab.lab.nodeagent.prober import PeriodicProbe, ProbeState
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from kubenetlab.lab.transport.batcher import Batcher
from kubenetlab.lab.transport.handlers import Handlers
from kubenetlab.lab.transport.protocol import Done
from kubenetlab.lab.transport.server import RpcServer

CHECK_INTERVAL_S = 0.5
"""Time between two checks for rules that other programs changed, in seconds."""


class NodeAgent:
    """Rules and probes of several nodes, in one event loop."""

    def __init__(
        self, listener: socket.socket, directory: Path, name: str, hidden: Sequence[str] = ()
    ) -> None:
        """Create a node agent without nodes.

        directory: run directory of the lab.
        name:      of this process, for messages.
        hidden:    directories of the machine that programs inside do not see.
        """
        self._directory = directory
        self._plugins = NetworkPlugins(directory, hidden)
        self._trees = FileTrees(directory / rundir.FILES)
        self._executor: Executor | None = None
        self._home = open_namespace("net")
        self._nodes: dict[ProcessId, Process] = {}
        """Pause processes of the nodes."""
        self._rulesets: dict[str, LoadedRules] = {}
        self._probes: dict[tuple[str, str, str], ProbeState] = {}
        handlers = Handlers(
            name,
            LoadRules.handled_by(self._load_rules),
            ReadGenerations.handled_by(self._read_generations),
            ListRules.handled_by(self._list_rules),
            PrintRules.handled_by(self._print_rules),
            CompareRules.handled_by(self._compare_rules),
            ReplaceProbes.handled_by(self._replace_probes),
            AttachPod.handled_by(self._plugins.attach),
            DetachPod.handled_by(self._plugins.detach),
            CheckPod.handled_by(self._plugins.check),
            CollectGarbage.handled_by(self._plugins.collect_garbage),
            AskStatus.handled_by(self._plugins.ask_status),
            described_errors=(RulesError,),
        )
        self._server = RpcServer[NodeAgentEvent](listener, handlers, self._greeting)
        self._results: Batcher[ProbeResult] = Batcher(
            lambda results: self._server.notify(ProbeResults(tuple(results)))
        )

    async def run(self) -> None:
        """Serve one agent after another; never return."""
        watch = asyncio.get_running_loop().create_task(self._watch_rulesets())
        try:
            await self._server.run()
        finally:
            watch.cancel()

    def _greeting(self) -> list[NodeAgentEvent]:
        """Let a new agent get the latest result of every probe; it queries the rules itself."""
        for probe in self._probes.values():
            probe.report_again()
        return []

    async def _watch_rulesets(self) -> None:
        """Report rules that other programs changed, and run the loaders' periodic work.

        Polled, because netlink events would report every rule that the lab loads as well.
        """
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            had_grown = False
            for netns, ruleset in self._rulesets.items():
                try:
                    if ruleset.has_drift():
                        self._server.notify(RulesEdited(netns))
                    ruleset.maintain()
                    had_grown |= ruleset.shrink()
                except (OSError, RequirementError, RulesError):
                    continue  # the node has just exited, or a resource is exhausted: try again
            if had_grown:
                trim_memory()

    def _load_rules(self, request: LoadRules, node: Node) -> RulesLoaded | RulesRefused:
        return self._ruleset(node).run(request.transactions)

    def _read_generations(self, request: ReadGenerations) -> Generations:
        found = {}
        for node in request.nodes:
            with suppress(OSError, RequirementError, RulesError):
                ruleset = self._ruleset(node)
                found[node.netns] = Generation(ruleset.generation(), ruleset.backends)
        return Generations(found)

    def _list_rules(self, request: ListRules) -> RuleListing:
        return RuleListing(self._ruleset(request.node).listed(request.backend, request.names))

    def _print_rules(self, request: PrintRules) -> RulesText:
        return RulesText(self._ruleset(request.node).text(request.backend))

    async def _compare_rules(self, request: CompareRules) -> Comparison:
        """Compare the rules of nodes with those that the request's transactions load."""
        result = await in_child(
            lambda: msgspec.msgpack.encode(
                compare(request.nodes, request.transactions, request.names)
            )
        )
        return Comparison(msgspec.msgpack.decode(result, type=dict[str, Compared]))

    def _ruleset(self, node: Node) -> LoadedRules:
        """Return the rules of a node; new ones if its pause process was replaced."""
        known = self._rulesets.get(node.netns)
        if known is None or known.node.id != node.pause:
            process = self._node(node.pause)
            if known is not None:
                self._rulesets.pop(node.netns).close()
            known = self._rulesets[node.netns] = LoadedRules(process, self._home)
        return known

    def _node(self, node: ProcessId) -> Process:
        """Return the pause process of a node. Raises ProcessLookupError if it has exited."""
        if node not in self._nodes:
            process = self._nodes[node] = Process(node)
            asyncio.get_running_loop().add_reader(process.pidfd, self._node_exited, process)
        return self._nodes[node]

    def _node_exited(self, process: Process) -> None:
        """Close the loaders of a node that has exited: they would keep its namespace alive."""
        asyncio.get_running_loop().remove_reader(process.pidfd)
        del self._nodes[process.id]
        for netns in [
            netns for netns, ruleset in self._rulesets.items() if ruleset.node is process
        ]:
            self._rulesets.pop(netns).close()
        process.close()

    def _replace_probes(self, request: ReplaceProbes) -> Done:
        """Replace the probes of the request's sandboxes; keep those whose spec has not changed.

        Probes of a node that has just exited are not started.
        """
        desired = {spec.key: spec for spec in request.probes}
        sandboxes = set(request.sandboxes)
        for key in [key for key in self._probes if key[0] in sandboxes and key not in desired]:
            self._probes.pop(key).stop()
        swept: dict[tuple[ProcessId, bool], list[ProbeState]] = {}
        for key, spec in desired.items():
            known = self._probes.get(key)
            node = request.nodes[spec.node_netns]
            if known is not None and (known.spec, known.node) == (spec, node):
                continue
            if known is not None:
                self._probes.pop(key).stop()
            try:
                process = self._node(node)
            except ProcessLookupError:
                continue  # the agent notices the exit as well, and sends the probes again
            if is_sweepable(spec):
                self._probes[key] = probe = ProbeState(spec, node, self._results.add)
                swept.setdefault((node, ":" in spec.address), []).append(probe)
            else:
                type_ = HookRun if spec.is_hook else PeriodicProbe
                self._probes[key] = type_(
                    spec,
                    node,
                    NetnsSocketFactory(process, self._home),
                    self._connected_executor,
                    self._results.add,
                    self._trees,
                )
        for (node, _), probes in swept.items():
            PingSweep(probes, NetnsSocketFactory(self._node(node), self._home))
        return Done()

    def _connected_executor(self) -> Executor:
        """Return the client of init that runs commands; connect it at the first call."""
        if self._executor is None:
            self._executor = Executor(self._directory)
        return self._executor


def main(context: LabContext, number: int) -> None:
    """Run a node agent; never return while the lab is up."""
    transactions.prepare()  # meanwhile the agent still plans
    listener = context.listeners[rundir.node_agent_socket(number)]
    agent = NodeAgent(
        listener, context.directory, f"node agent {number}", context.hidden_directories
    )
    asyncio.run(agent.run())
