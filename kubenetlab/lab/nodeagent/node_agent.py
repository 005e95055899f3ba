"""The node agent: what kube-proxy and the kubelet do on the nodes: rules, and probes.

A process of its own, so that neither a slow ruleset nor a crash in the C library stops the agent. It serves one agent after another;
rules stay in the kernel and probes go on meanwhile.
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
from kubenetlab.hoststate.rules.rulesets import Name, Transaction
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import (
    ComparingLoader,
    Loader,
    MaintainedLoader,
    RulesError,
    WatchingLoader,
    open_here,
)
from kubenetlab.kernel.rules.comparison import compare
from kubenetlab.kernel.syscalls import give_memory_back, open_namespace
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.nodeagent.executor import Executor
from kubenetlab.lab.nodeagent.forked import in_child
from kubenetlab.lab.nodeagent.hooks import HookRun
from kubenetlab.lab.nodeagent.ping_sweep import PingSweep, is_sweepable
from kubenetlab.lab.nodeagent.prober import PeriodicProbe, ProbeState
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from kubenetlab.lab.transport.accepting import accept
from kubenetlab.lab.transport.batcher import Batcher
from kubenetlab.lab.transport.channel import Channel
from kubenetlab.lab.transport.frames import Message

LOOK_S = 0.5
"""How often it is asked whether somebody else has changed rules."""
LARGE_BYTES = 64 * 1024
"""What has loaded more text than that at one time has grown, and does not shrink again."""


class LoadedRules:
    """The rules of one node, what loads them kept open until the node's pause process dies."""

    def __init__(self, node: Process, home: int) -> None:
        self.node = node
        self._home = home
        self._loaders: dict[str, Loader] = {}
        with node.network(home):
            self._generations = nftables.Generations()
        self._last = self._generations.read()
        self._grown: set[str] = set()
        """Dialects whose loaders have."""

    def run(self, steps: Sequence[Transaction]) -> Message:
        """The new generation, or what was refused."""
        begun = time.perf_counter()
        for step in steps:
            if len(step.text) > LARGE_BYTES:
                self._grown.add(step.dialect)
            try:
                self._loader(step.dialect).run(step.text)
            except (RulesError, RequirementError) as error:
                return {"error": str(error), "dialect": step.dialect}
        took_ms = round((time.perf_counter() - begun) * 1000, 2)
        return {"generation": self.generation(), "ms": took_ms}

    @property
    def dialects(self) -> list[str]:
        """Those that are loaded from here."""
        return list(self._loaders)

    def generation(self) -> int:
        self._last = self._generations.read()
        return self._last

    def was_touched(self) -> bool:
        """True when there has been a transaction since the last time that anybody asked for the generation, or a loader has found
        something changed."""
        before = self._last
        found = [
            loader.was_touched()
            for loader in self._loaders.values()
            if isinstance(loader, ComparingLoader)
        ]
        return self.generation() != before or any(found)

    def tend(self) -> None:
        """Has its loaders do what is due."""
        for loader in self._loaders.values():
            if isinstance(loader, MaintainedLoader):
                loader.tend()

    def shrink(self) -> bool:
        """Closes the loaders that have grown; the next use opens new ones. False where there is no need."""
        had_grown = bool(self._grown)
        for name in self._grown & self._loaders.keys():
            if not isinstance(
                self._loaders[name], WatchingLoader | MaintainedLoader | ComparingLoader
            ):
                self._loaders.pop(name).close()
        self._grown.clear()
        return had_grown

    def listed(self, dialect: str, names: Sequence[Name]) -> Any:
        return self._loader(dialect).listed(names)

    def text(self, dialect: str) -> str:
        return self._loader(dialect).text()

    def close(self) -> None:
        for loader in self._loaders.values():
            if isinstance(loader, WatchingLoader):
                asyncio.get_running_loop().remove_reader(loader.fileno())
            loader.close()
        self._generations.close()

    def _loader(self, dialect: str) -> Loader:
        if dialect not in self._loaders:
            with self.node.network(self._home):
                self._loaders[dialect] = loader = open_here(dialect)
            if isinstance(loader, WatchingLoader):
                asyncio.get_running_loop().add_reader(loader.fileno(), loader.heard)
        return self._loaders[dialect]


class NodeAgent:
    """Some nodes' rulesets and probes, in one event loop."""

    def __init__(self, listener: socket.socket, directory: Path) -> None:
        self._listener = listener
        self._directory = directory
        self._executor: Executor | None = None
        self._home = open_namespace("net")
        self._nodes: dict[ProcessId, Process] = {}
        """The pause processes of nodes."""
        self._rulesets: dict[str, LoadedRules] = {}
        self._probes: dict[tuple[str, str, str], ProbeState] = {}
        self._agent: Channel | None = None
        self._pending: set[asyncio.Task[None]] = set()
        """Requests that are answered by another process."""
        self._answers: Batcher[Message] = Batcher(
            lambda answers: self._tell({"event": "probes", "probes": answers})
        )

    async def run(self) -> None:
        watch = asyncio.get_running_loop().create_task(self._watch_rulesets())
        try:
            while True:
                connection = await accept(self._listener)
                self._agent = agent = Channel(connection)
                try:
                    for question in self._probes.values():
                        if question.last is not None:
                            self._answers.add({**question.last, "at": time.time()})
                    async for request in agent.receive():
                        for one in request.get("each", (request,)):
                            answer = self._serve({**request, **one})
                            if isinstance(answer, Coroutine):
                                self._answer_later(agent, one["id"], answer)
                                continue
                            agent.send({"answers": one["id"], **answer})
                            await agent.sent()  # the next one may take long
                finally:
                    self._agent = None
                    agent.close()
        finally:
            watch.cancel()

    async def _watch_rulesets(self) -> None:
        """Tells of rules that somebody else has changed. The kernel would tell it by itself, but then every rule of ours as well."""
        while True:
            await asyncio.sleep(LOOK_S)
            had_grown = False
            for netns, ruleset in self._rulesets.items():
                try:
                    if ruleset.was_touched():
                        self._tell({"event": "touched", "netns": netns})
                    ruleset.tend()
                    had_grown |= ruleset.shrink()
                except (OSError, RequirementError, RulesError):
                    continue  # its node has just died, or there is no room for another context: it is looked at again
            if had_grown:
                give_memory_back()

    def _tell(self, event: Message) -> None:
        """Nobody, when there is no agent: the next one is told all answers, and asks for the rules itself."""
        if self._agent is not None:
            self._agent.send(event)

    def _answer_later(
        self, agent: Channel, number: int, answer: Coroutine[Any, Any, Message]
    ) -> None:
        """Answer a request when its work in another process is done; other requests are served meanwhile."""

        async def send() -> None:
            try:
                message = await answer
            except OSError as error:
                message = {"error": str(error)}
            agent.send({"answers": number, **message})

        self._pending.add(task := asyncio.get_running_loop().create_task(send()))
        task.add_done_callback(self._pending.discard)

    def _serve(self, request: Message) -> Message | Coroutine[Any, Any, Message]:
        try:
            match request["do"]:
                case "rules":
                    return self._ruleset(request).run(
                        msgspec.convert(request["steps"], tuple[Transaction, ...])
                    )
                case "generation":
                    ruleset = self._ruleset(request)
                    return {"generation": ruleset.generation(), "open": ruleset.dialects}
                case "list":
                    return {
                        "listed": self._ruleset(request).listed(
                            request["dialect"], request["names"]
                        )
                    }
                case "compare":
                    return self._compare(request)
                case "text":
                    return {"text": self._ruleset(request).text(request["dialect"])}
                case "probes":
                    return self._set_probes(request)
            return {"error": f"unknown request {request['do']}"}
        except (RequirementError, RulesError) as error:
            return {"error": str(error)}
        except (KeyError, OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def _compare(self, request: Message) -> Message:
        """Compare the rules of nodes with those that the steps make."""
        loads = msgspec.convert(request["steps"], tuple[Transaction, ...])
        nodes = {netns: ProcessId(*node) for netns, node in request["nodes"].items()}
        return {
            "compared": msgspec.Raw(
                await in_child(lambda: msgspec.json.encode(compare(nodes, loads, request["names"])))
            )
        }

    def _ruleset(self, request: Message) -> LoadedRules:
        netns, node = request["netns"], ProcessId(*request["node"])
        known = self._rulesets.get(netns)
        if known is None or known.node.id != node:
            process = self._node(node)
            if known is not None:
                self._rulesets.pop(netns).close()
            known = self._rulesets[netns] = LoadedRules(process, self._home)
        return known

    def _node(self, node: ProcessId) -> Process:
        """Open the pause process of a node. Raises ProcessLookupError when it has exited."""
        if node not in self._nodes:
            process = self._nodes[node] = Process(node)
            asyncio.get_running_loop().add_reader(process.pidfd, self._node_exited, process)
        return self._nodes[node]

    def _node_exited(self, process: Process) -> None:
        """Close what is open in a node: it would keep its namespace alive."""
        asyncio.get_running_loop().remove_reader(process.pidfd)
        del self._nodes[process.id]
        for netns in [
            netns for netns, ruleset in self._rulesets.items() if ruleset.node is process
        ]:
            self._rulesets.pop(netns).close()
        process.close()

    def _set_probes(self, request: Message) -> Message:
        """Ask the probes of the sandboxes named, in place of those they had; none from a node that has just exited."""
        specs = [msgspec.convert(spec, ProbeSpec) for spec in request["probes"]]
        wanted = {spec.key: spec for spec in specs}
        sandboxes = set(request["netns"])
        for key in [key for key in self._probes if key[0] in sandboxes and key not in wanted]:
            self._probes.pop(key).stop()
        swept: dict[tuple[ProcessId, bool], list[ProbeState]] = {}
        for key, spec in wanted.items():
            known = self._probes.get(key)
            node = ProcessId(*request["nodes"][spec.node_netns])
            if known is not None and (known.spec, known.node) == (spec, node):
                continue
            if known is not None:
                self._probes.pop(key).stop()
            try:
                process = self._node(node)
            except ProcessLookupError:
                continue  # the agent is told of its exit, too, and names its successor
            if is_sweepable(spec):
                self._probes[key] = question = ProbeState(spec, node, self._answers.add)
                swept.setdefault((node, ":" in spec.address), []).append(question)
            else:
                make = HookRun if spec.is_hook else PeriodicProbe
                self._probes[key] = make(
                    spec,
                    node,
                    NetnsSocketFactory(process, self._home),
                    self._init,
                    self._answers.add,
                )
        for (node, _), questions in swept.items():
            PingSweep(questions, NetnsSocketFactory(self._node(node), self._home))
        return {"ok": True}

    def _init(self) -> Executor:
        """Who runs commands in containers; connected to with the first of them."""
        if self._executor is None:
            self._executor = Executor(self._directory)
        return self._executor


def main(boot: LabContext, number: int) -> None:
    """The role: never returns while the lab lives."""
    from kubenetlab.lab import rundir

    agent = NodeAgent(boot.listeners[rundir.node_agent_socket(number)], boot.directory)
    asyncio.run(agent.run())
