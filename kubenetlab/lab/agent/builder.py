"""The builder: makes the changes of a plan, by all hands. Links and namespaces here, rules and programs by the other processes.

Namespaces are made in a thread of their own, most of whose time is the kernel's. Meanwhile the rules of nodes that are complete are
loaded, and what serves in their pods is started and probed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from kubenetlab.datapath.contexts import Contexts
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.errors import refusal
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Verb
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel, far_namespaces
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.syscalls import raise_thread_priority
from kubenetlab.lab.agent.error_report import program_refused, rules_refused
from kubenetlab.lab.agent.exit_watcher import ExitWatcher
from kubenetlab.lab.agent.kube_proxy_notifier import KubeProxyNotifier
from kubenetlab.lab.agent.netns_links import NetnsLinks
from kubenetlab.lab.agent.node_agent_client import NodeAgentClient
from kubenetlab.lab.agent.observed_state import ObservedState
from kubenetlab.lab.agent.probe_client import ProbeClient
from kubenetlab.lab.agent.runtime_client import RuntimeClient
from kubenetlab.programs import COMMAND, is_one_shot

TELL_S = 0.04
"""How often it is told how far it is: nobody sees more."""

Refused = dict[str, list[str]]
"""Namespace → what was refused there."""
Probes = Callable[[], Mapping[str, tuple[ProbeSpec, ...]]]
"""Says of each sandbox what is asked in it."""
Tell = Callable[..., None]
"""Is told how it goes on."""


class Builder:
    """The hands of the agent. Beside what they made, it knows which nodes' rules are not what they should be: `unruled`."""

    def __init__(
        self,
        kernel: LinuxKernel,
        sight: ObservedState,
        rules: NodeAgentClient,
        probes: ProbeClient,
        runs: RuntimeClient,
        links: NetnsLinks,
        exits: ExitWatcher,
        proxies: KubeProxyNotifier,
    ) -> None:
        self.unruled: set[str] = set()
        self.links = links
        self.kernel = kernel
        self.sight = sight
        self.rules = rules
        self.probes = probes
        self.runs = runs
        self._exits = exits
        self._proxies = proxies
        self._thread = ThreadPoolExecutor(1, "kernel", raise_thread_priority)

    @property
    def pauses(self) -> dict[str, Pause]:
        """The pause process of each namespace that is there."""
        return self.kernel.sandboxes.pauses

    @property
    def nodes(self) -> dict[str, ProcessId]:
        """Those of the nodes."""
        return {
            netns: pause.id
            for netns, pause in self.pauses.copy().items()
            if netns.startswith("node/")
        }

    async def apply(
        self, changes: Changes, desired: HostState, contexts: Contexts, probes: Probes, tell: Tell
    ) -> Refused:
        """Makes the changes that lead to `desired`."""
        self._proxies.plan(contexts.cluster)
        building = _Building(self, changes, desired, contexts, probes, tell)
        loop = asyncio.get_running_loop()
        tell(phase="namespaces", total=len(changes.namespaces))

        def is_made(netns: str) -> None:
            loop.call_soon_threadsafe(building.is_made, netns)

        early, late = changes.around_rules()
        if any(map(_is_kernels, early.namespaces)):
            report = await loop.run_in_executor(self._thread, self.kernel.apply, early, is_made)
            for failure in report.failures:
                building.refused.setdefault(failure.netns, []).append(str(failure))
        for entry in changes.namespaces:
            if entry.is_removed:
                self.forget(entry.netns)
        pauses = self.pauses.copy()
        made = {
            entry.netns: pauses[entry.netns]
            for entry in changes.namespaces
            if entry.is_new and entry.netns in pauses
        }
        # Watched now, and not one by one: a pause process that is started gets a copy of each descriptor that is open, and closes it.
        for netns, pause in made.items():
            self._exits.watch(netns, pause)
        self.sight.monitor(pause.pid for pause in made.values())
        tell(phase="rules and programs")
        await building.finish()
        if late:
            report = await loop.run_in_executor(self._thread, self.kernel.apply, late)
            for failure in report.failures:
                building.refused.setdefault(failure.netns, []).append(str(failure))
        await self._proxies.deliver()
        self.rules.save_marks()
        return building.refused

    def forget(self, netns: str) -> None:
        """A namespace is gone, and everything in it."""
        self.unruled.discard(netns)
        self.links.remove(netns)
        self.runs.forget(netns)
        self.rules.forget(netns)
        self.sight.forget(netns)


class _Building:
    """One apply: what has been begun of it, and what was refused."""

    def __init__(
        self,
        builder: Builder,
        changes: Changes,
        desired: HostState,
        contexts: Contexts,
        probes: Probes,
        tell: Tell,
    ) -> None:
        self.refused: Refused = {}
        self._builder = builder
        self._entries = {entry.netns: entry for entry in changes.namespaces if not entry.is_removed}
        self._programs = {
            netns: [
                (operation.verb, operation.object)
                for operation in entry.operations
                if isinstance(operation.object, ProgramRun)
            ]
            for netns, entry in self._entries.items()
        }
        self._desired = desired
        self._contexts = contexts
        self._probes = probes
        self._tell = tell
        self._plugged: dict[str, list[str]] = {}
        """Node's namespace → the new pods whose links are plugged in there."""
        for entry in self._entries.values():
            for far in far_namespaces(entry) if entry.is_new else ():
                self._plugged.setdefault(far, []).append(entry.netns)
        self._unruled = {
            netns
            for netns, entry in self._entries.items()
            if any(operation.object.hand == "rules" for operation in entry.operations)
        }
        self._populated: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._made = 0
        self._told_at = 0.0

    def is_made(self, netns: str) -> None:
        """A namespace is there, and what is plugged into it."""
        self._made += 1
        if (now := time.monotonic()) - self._told_at >= TELL_S:
            self._told_at = now
            self._tell(done=netns, count=self._made)
        if netns not in self._builder.pauses:
            return
        if self._entries[netns].is_new:
            self._builder.links.add(netns, self._builder.pauses[netns].pid)
            if netns in self._unruled:
                self._begin(self._load_rules(netns))
        if pods := self._plugged.get(netns):
            self._begin(self._populate([pod for pod in pods if pod in self._builder.pauses]))

    async def finish(self) -> None:
        """Whatever has not been begun: rules of what was there before, processes; and at the very end what asks something once and ends."""
        for task in self._tasks:
            await task
        served = [netns for netns in self._entries if netns not in self._populated]
        await asyncio.gather(
            *(self._load_rules(netns) for netns in sorted(self._unruled)),
            *self._runs_of(served, lambda program: not is_one_shot(program)),
            *self._runs_of(self._populated, _acts),
        )
        await asyncio.gather(*self._runs_of(self._entries, is_one_shot))

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _populate(self, pods: list[str]) -> None:
        """What serves in a node's new pods is started, and then probed."""
        self._populated.update(pods)
        await asyncio.gather(*self._runs_of(pods, _serves))
        probes = self._probes()
        running = [
            netns
            for netns in pods
            if netns in probes and all(_serves(run.program) for _, run in self._programs[netns])
        ]
        await self._builder.probes.update(
            {netns: probes[netns] for netns in running}, self._builder.nodes
        )

    async def _load_rules(self, netns: str) -> None:
        builder = self._builder
        if (pause := builder.pauses.get(netns)) is None:
            return
        self._unruled.discard(netns)
        old, new = (
            of_hand(contents.values(), "rules")
            for contents in (builder.sight.contents.get(netns, {}), self._desired[netns])
        )
        said = await builder.rules.apply(netns, pause.id, old, new)
        self._probes()  # asked for next, and worked out while other nodes' rules are loaded
        if said is None:
            builder.unruled.discard(netns)
            builder.sight.record_applied(netns, new, removed=old)
        else:
            builder.unruled.add(netns)
            self.refused.setdefault(netns, []).append(rules_refused(netns, *said, self._desired))

    def _runs_of(
        self, namespaces: Iterable[str], which: Callable[[str], bool]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """What is to be done about those of their programs that are meant, by the programs' names."""
        for netns in namespaces:
            if meant := [(verb, run) for verb, run in self._programs[netns] if which(run.program)]:
                yield self._run_programs(netns, meant)

    async def _run_programs(
        self, netns: str, operations: Iterable[tuple[Verb, ProgramRun]]
    ) -> None:
        """One after the other."""
        builder = self._builder
        pause, context = builder.pauses.get(netns), self._contexts.get(netns)
        if pause is None or context is None:
            return
        for verb, run in operations:
            if verb == "remove":
                await builder.runs.stop(run, context.node)
                builder.sight.record_applied(netns, removed=[run])
                continue
            environment = partial(self._contexts.environment, netns, run.container)
            try:
                said = await builder.runs.start(run, pause.id, context, environment)
            except OSError as error:  # its log cannot be put aside, or written
                said = refusal(error)
            if said is None:
                builder.sight.record_applied(netns, [run], removed=[run])
            else:
                self.refused.setdefault(netns, []).append(program_refused(run, said, self._desired))


def of_hand(objects: Iterable[Any], hand: str) -> list[Any]:
    """Those of the objects that one hand makes."""
    return [obj for obj in objects if obj.hand == hand]


def _is_kernels(entry: NetnsChanges) -> bool:
    """True where more changes than rules and programs."""
    return (
        entry.is_new
        or entry.is_removed
        or any(operation.object.hand == "netlink" for operation in entry.operations)
    )


def _serves(program: str) -> bool:
    """True for what can be started in a pod that is not yet connected to all others: it waits to be asked."""
    return program != COMMAND and not is_one_shot(program)


def _acts(program: str) -> bool:
    """True for somebody's own command: it begins when it finds everything as it should be."""
    return program == COMMAND
