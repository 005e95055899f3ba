"""Node agent: loads the rules of several nodes and probes their pods.

It does the work of kube-proxy and the kubelet on these nodes. It is a process of its own, so that
neither a large ruleset nor a crash in a C library stops the agent. When the agent restarts, rules
stay in the kernel and probes continue.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules.rulesets import OwnedName, Transaction
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import (
    ComparingLoader,
    Loader,
    MaintainedLoader,
    PreparedLoader,
    RulesError,
    WatchingLoader,
    open_loader,
)
from kubenetlab.kernel.rules.comparison import compare
from kubenetlab.kernel.syscalls import open_namespace, trim_memory
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.nodeagent.executor import Executor
from kubenetlab.lab.nodeagent.forked import in_child
from kubenetlab.lab.nodeagent.hooks import HookRun
from kubenetlab.lab.nodeagent.ping_sweep import PingSweep, is_sweepable
from kubenetlab.lab.nodeagent.prober import PeriodicProbe, ProbeState
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from kubenetlab.lab.transport.accepting import accept
from kubenetlab.lab.transport.batcher import Batcher
from kubenetlab.lab.transport.json_channel import Channel
from kubenetlab.lab.transport.json_frames import Message

CHECK_INTERVAL_S = 0.5
"""Time between two checks for rules that other programs changed, in seconds."""
LARGE_BYTES = 64 * 1024
"""Size of a rule script from which on its loader keeps memory that it does not release."""


class LoadedRules:
    """Rules of one node, and their loaders, which stay open until its pause process exits."""

    def __init__(self, node: Process, home: int) -> None:
        self.node = node
        self._home = home
        self._loaders: dict[str, Loader] = {}
        with node.network(home):
            self._generations = nftables.Generations()
        self._last_generation = self._generations.read()
        self._grown: set[str] = set()
        """Rule backends whose loaders have loaded a large script."""

    def run(self, transactions: Sequence[Transaction]) -> Message:
        """Run transactions until one fails; return the new generation, or the error."""
        start = time.perf_counter()
        for transaction in transactions:
            if len(transaction.text) > LARGE_BYTES:
                self._grown.add(transaction.backend)
            try:
                self._loader(transaction.backend).run(transaction.text)
            except (RulesError, RequirementError) as error:
                return {"error": str(error), "backend": transaction.backend}
        took_ms = round((time.perf_counter() - start) * 1000, 2)
        return {"generation": self.generation(), "ms": took_ms}

    @property
    def backends(self) -> list[str]:
        """Names of the rule backends with an open loader."""
        return list(self._loaders)

    def generation(self) -> int:
        """Read the generation of the node's nftables ruleset and remember it for `was_touched`."""
        self._last_generation = self._generations.read()
        return self._last_generation

    def has_drift(self) -> bool:
        """Return True if another program has changed rules.

        That is the case if the generation differs from the one read last, or if a loader finds
        a difference.
        """
        before = self._last_generation
        # A list, so that every loader is asked.
        touched = [
            loader.has_drift()
            for loader in self._loaders.values()
            if isinstance(loader, ComparingLoader)
        ]
        return self.generation() != before or any(touched)

    def maintain(self) -> None:
        """Run the periodic work of the loaders that have some."""
        for loader in self._loaders.values():
            if isinstance(loader, MaintainedLoader):
                loader.maintain()

    def prepare(self) -> None:
        """Import what later transactions need."""
        for loader in self._loaders.values():
            if isinstance(loader, PreparedLoader):
                loader.prepare()

    def shrink(self) -> bool:
        """Close loaders that have loaded a large script; the next use opens new ones.

        Loaders that watch, maintain or compare rules stay open. Return True if any backend has
        loaded a large script since the last call.
        """
        had_grown = bool(self._grown)
        for name in self._grown & self._loaders.keys():
            if not isinstance(
                self._loaders[name], WatchingLoader | MaintainedLoader | ComparingLoader
            ):
                self._loaders.pop(name).close()
        self._grown.clear()
        return had_grown

    def listed(self, backend: str, names: Sequence[OwnedName]) -> Any:
        """Return the loaded objects with these names, as plain data."""
        return self._loader(backend).listed(names)

    def text(self, backend: str) -> str:
        """Return everything loaded by a backend, as the backend's own program prints it."""
        return self._loader(backend).text()

    def close(self) -> None:
        """Close all loaders; the rules stay in the kernel."""
        for loader in self._loaders.values():
            if isinstance(loader, WatchingLoader):
                asyncio.get_running_loop().remove_reader(loader.fileno())
            loader.close()
        self._generations.close()

    def _loader(self, backend: str) -> Loader:
        if backend not in self._loaders:
            with self.node.network(self._home):
                self._loaders[backend] = loader = open_loader(backend)
            if isinstance(loader, WatchingLoader):
                asyncio.get_running_loop().add_reader(loader.fileno(), loader.process_events)
        return self._loaders[backend]


class NodeAgent:
    """Rules and probes of several nodes, in one event loop."""

    def __init__(self, listener: socket.socket, directory: Path) -> None:
        self._listener = listener
        self._directory = directory
        self._executor: Executor | None = None
        self._home = open_namespace("net")
        self._nodes: dict[ProcessId, Process] = {}
        """Pause processes of the nodes."""
        self._rulesets: dict[str, LoadedRules] = {}
        self._probes: dict[tuple[str, str, str], ProbeState] = {}
        self._agent: Channel | None = None
        self._pending: set[asyncio.Task[None]] = set()
        """Requests that a child process works on."""
        self._reports: Batcher[Message] = Batcher(
            lambda reports: self._notify({"event": "probes", "probes": reports})
        )

    async def run(self) -> None:
        """Serve one agent after another; never return."""
        watch = asyncio.get_running_loop().create_task(self._watch_rulesets())
        try:
            while True:
                connection = await accept(self._listener)
                self._agent = agent = Channel(connection)
                try:
                    for probe in self._probes.values():
                        if probe.last is not None:
                            self._reports.add({**probe.last, "at": time.time()})
                    async for request in agent.receive():
                        for part in request.get("each", (request,)):
                            reply = self._serve({**request, **part})
                            if isinstance(reply, Coroutine):
                                self._reply_later(agent, part["id"], reply)
                                continue
                            agent.send({"answers": part["id"], **reply})
                            await agent.sent()  # before the next part, which may take long
                finally:
                    self._agent = None
                    agent.close()
        finally:
            watch.cancel()

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
                        self._notify({"event": "touched", "netns": netns})
                    ruleset.maintain()
                    had_grown |= ruleset.shrink()
                except (OSError, RequirementError, RulesError):
                    continue  # the node has just exited, or a resource is exhausted: try again
            if had_grown:
                trim_memory()

    def _notify(self, event: Message) -> None:
        """Send an event to the agent, if there is one.

        A new agent gets the latest report of every probe when it connects, and queries the rules.
        """
        if self._agent is not None:
            self._agent.send(event)

    def _reply_later(
        self, agent: Channel, number: int, reply: Coroutine[Any, Any, Message]
    ) -> None:
        """Reply to a request when its child process has finished; serve others meanwhile."""

        async def send() -> None:
            try:
                message = await reply
            except OSError as error:
                message = {"error": str(error)}
            agent.send({"answers": number, **message})

        self._pending.add(task := asyncio.get_running_loop().create_task(send()))
        task.add_done_callback(self._pending.discard)

    def _serve(self, request: Message) -> Message | Coroutine[Any, Any, Message]:
        """Return the reply to a request, or a coroutine that computes it."""
        try:
            match request["do"]:
                case "rules":
                    return self._ruleset(request).run(
                        msgspec.convert(request["steps"], tuple[Transaction, ...])
                    )
                case "generation":
                    ruleset = self._ruleset(request)
                    return {"generation": ruleset.generation(), "open": ruleset.backends}
                case "list":
                    return {
                        "listed": self._ruleset(request).listed(
                            request["backend"], request["names"]
                        )
                    }
                case "compare":
                    return self._compare(request)
                case "text":
                    return {"text": self._ruleset(request).text(request["backend"])}
                case "probes":
                    return self._set_probes(request)
                case "prepare":
                    return self._prepare()
            return {"error": f"unknown request {request['do']}"}
        except (RequirementError, RulesError) as error:
            return {"error": str(error)}
        except (KeyError, OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def _compare(self, request: Message) -> Message:
        """Compare the rules of nodes with those that the request's transactions load."""
        transactions = msgspec.convert(request["steps"], tuple[Transaction, ...])
        nodes = {netns: ProcessId(*node) for netns, node in request["nodes"].items()}
        result = await in_child(
            lambda: msgspec.json.encode(compare(nodes, transactions, request["names"]))
        )
        return {"compared": msgspec.Raw(result)}

    def _ruleset(self, request: Message) -> LoadedRules:
        """Return the rules of the request's node; new ones if its pause process was replaced."""
        netns, node = request["netns"], ProcessId(*request["node"])
        known = self._rulesets.get(netns)
        if known is None or known.node.id != node:
            process = self._node(node)
            if known is not None:
                self._rulesets.pop(netns).close()
            known = self._rulesets[netns] = LoadedRules(process, self._home)
        return known

    def _prepare(self) -> Message:
        for ruleset in self._rulesets.values():
            ruleset.prepare()
        return {"ok": True}

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

    def _set_probes(self, request: Message) -> Message:
        """Replace the probes of the request's sandboxes; keep those whose spec has not changed.

        Probes of a node that has just exited are not started.
        """
        specs = [msgspec.convert(spec, ProbeSpec) for spec in request["probes"]]
        desired = {spec.key: spec for spec in specs}
        sandboxes = set(request["netns"])
        for key in [key for key in self._probes if key[0] in sandboxes and key not in desired]:
            self._probes.pop(key).stop()
        swept: dict[tuple[ProcessId, bool], list[ProbeState]] = {}
        for key, spec in desired.items():
            known = self._probes.get(key)
            node = ProcessId(*request["nodes"][spec.node_netns])
            if known is not None and (known.spec, known.node) == (spec, node):
                continue
            if known is not None:
                self._probes.pop(key).stop()
            try:
                process = self._node(node)
            except ProcessLookupError:
                continue  # the agent notices the exit as well, and sends the probes again
            if is_sweepable(spec):
                self._probes[key] = probe = ProbeState(spec, node, self._reports.add)
                swept.setdefault((node, ":" in spec.address), []).append(probe)
            else:
                type_ = HookRun if spec.is_hook else PeriodicProbe
                self._probes[key] = type_(
                    spec,
                    node,
                    NetnsSocketFactory(process, self._home),
                    self._connected_executor,
                    self._reports.add,
                )
        for (node, _), probes in swept.items():
            PingSweep(probes, NetnsSocketFactory(self._node(node), self._home))
        return {"ok": True}

    def _connected_executor(self) -> Executor:
        """Return the client of init that runs commands; connect it at the first call."""
        if self._executor is None:
            self._executor = Executor(self._directory)
        return self._executor


def main(context: LabContext, number: int) -> None:
    """Run a node agent; never return while the lab is up."""
    from kubenetlab.lab import rundir

    agent = NodeAgent(context.listeners[rundir.node_agent_socket(number)], context.directory)
    asyncio.run(agent.run())
