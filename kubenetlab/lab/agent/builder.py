"""Applying a plan: the agent changes the kernel, other processes load rules and run programs.

A thread changes the namespaces, and spends most of its time in the kernel. Meanwhile the rules of
nodes that are complete are loaded, and servers in their pods are started and probed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, cast

from kubenetlab.datapath.contexts import Contexts
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.errors import os_error_text
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Verb
from kubenetlab.hoststate.object import KERNEL_APPLIERS, Object
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.rules.rulesets import DiffCache, RuleObject
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.port_queue import connected_namespaces
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.syscalls import raise_thread_priority
from kubenetlab.lab.agent.clients.daemon_client import DaemonClient
from kubenetlab.lab.agent.clients.node_agent_client import NodeAgentClient
from kubenetlab.lab.agent.clients.probe_client import ProbeClient
from kubenetlab.lab.agent.clients.runtime_client import RuntimeClient
from kubenetlab.lab.agent.daemon_tasks import daemon_tasks, perform
from kubenetlab.lab.agent.error_report import (
    describe_refused_daemon,
    describe_refused_program,
    describe_refused_rules,
)
from kubenetlab.lab.agent.exit_watcher import ExitWatcher
from kubenetlab.lab.agent.guarded_pods import guarded_pods, open_pods, without_waiting_packets
from kubenetlab.lab.agent.kube_proxy_notifier import KubeProxyNotifier
from kubenetlab.lab.agent.netns_links import NetnsLinks
from kubenetlab.lab.agent.observed_state import ObservedState
from kubenetlab.lab.messages.creation import NamespaceMade, PhaseStarted, Progress
from kubenetlab.programs import COMMAND, is_one_shot

PROGRESS_INTERVAL_S: Final = 0.04
"""Minimum time between two progress messages, in seconds."""

_OF_DAEMONS: Final = frozenset(("files", "daemons"))
"""Appliers of the objects that concern daemons."""

Refused = dict[str, list[str]]
"""Namespace → error messages."""
Probes = Callable[[], Mapping[str, tuple[ProbeSpec, ...]]]
"""Return the probes of each sandbox."""
ReportProgress = Callable[[Progress], None]
"""Send a progress message to `up`."""


class Builder:
    """Applies changes with the help of the kernel, the node agents, the app workers and init."""

    def __init__(
        self,
        kernel: LinuxKernel,
        observed_state: ObservedState,
        rules: NodeAgentClient,
        probes: ProbeClient,
        runtime: RuntimeClient,
        links: NetnsLinks,
        exit_watcher: ExitWatcher,
        kube_proxies: KubeProxyNotifier,
        daemons: DaemonClient,
    ) -> None:
        self.nodes_with_refused_rules: set[str] = set()
        """Namespaces of nodes whose rules are not the desired ones."""
        self.links = links
        self.kernel = kernel
        self.observed_state = observed_state
        self.rules = rules
        self.probes = probes
        self.runtime = runtime
        self._exit_watcher = exit_watcher
        self._kube_proxies = kube_proxies
        self.daemons = daemons
        self._thread = ThreadPoolExecutor(1, "kernel", raise_thread_priority)

    @property
    def pauses(self) -> dict[str, Pause]:
        """The pause process of each existing namespace."""
        return self.kernel.sandboxes.pauses

    @property
    def nodes(self) -> dict[str, ProcessId]:
        """The identity of the pause process of each existing node, by the node's namespace."""
        return {
            netns: pause.id
            for netns, pause in self.pauses.copy().items()
            if netns.startswith("node/")
        }

    async def apply(
        self,
        changes: Changes,
        desired: HostState,
        contexts: Contexts,
        probes: Probes,
        report_progress: ReportProgress,
    ) -> Refused:
        """Apply the changes that lead to `desired`; return what was refused."""
        self._kube_proxies.set_cluster(contexts.cluster)
        guarded = guarded_pods(
            changes,
            desired.guarded,
            self.observed_state.contents,
            has_refused_rules=bool(self.nodes_with_refused_rules),
        )
        application = _Application(
            self, changes, desired, guarded, contexts, probes, report_progress
        )
        loop = asyncio.get_running_loop()
        report_progress(PhaseStarted("namespaces", len(changes.namespaces)))

        def on_made(netns: str) -> None:
            loop.call_soon_threadsafe(application.namespace_made, netns)

        early, late = changes.split_around_rules(guarded)
        if any(map(_changes_kernel, early.namespaces)):
            report = await loop.run_in_executor(self._thread, self.kernel.apply, early, on_made)
            for failure in report.failures:
                application.refused.setdefault(failure.netns, []).append(str(failure))
        for entry in changes.namespaces:
            if entry.is_removed:
                self.forget(entry.netns)
        self._watch_new(changes)
        report_progress(PhaseStarted("rules and programs"))

        async def apply_late() -> None:
            opened, errors = open_pods(late, self.nodes_with_refused_rules)
            for netns, error in errors.items():
                application.refused.setdefault(netns, []).append(error)
            for part in (without_waiting_packets(opened, desired), opened):
                report = await loop.run_in_executor(self._thread, self.kernel.apply, part)
                for failure in report.failures:
                    application.refused.setdefault(failure.netns, []).append(str(failure))

        await application.finish(apply_late if late else None)
        await self._kube_proxies.deliver()
        self.rules.checkpoints.save()
        return application.refused

    def forget(self, netns: str) -> None:
        """Drop everything that is known of a namespace that is gone."""
        self.nodes_with_refused_rules.discard(netns)
        self.links.remove(netns)
        self.runtime.forget(netns)
        self.daemons.forget(netns)
        self.rules.forget(netns)
        self.observed_state.forget(netns)

    def _watch_new(self, changes: Changes) -> None:
        """Watch the pause processes and the netlink events of new namespaces.

        This is done for all at once when the thread has started the last pause process: each one
        inherits, and has to close, every descriptor that is open by then.
        """
        pauses = self.pauses.copy()
        made = {
            entry.netns: pauses[entry.netns]
            for entry in changes.namespaces
            if entry.is_new and entry.netns in pauses
        }
        for netns, pause in made.items():
            self._exit_watcher.watch(netns, pause)
        self.observed_state.monitor(pause.pid for pause in made.values())


class _Application:
    """One call of `Builder.apply`: the tasks that it has started, and what was refused."""

    def __init__(
        self,
        builder: Builder,
        changes: Changes,
        desired: HostState,
        guarded: AbstractSet[str],
        contexts: Contexts,
        probes: Probes,
        report_progress: ReportProgress,
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
        self._report_progress = report_progress
        self._new_pods: dict[str, list[str]] = {}
        """Node's namespace → new pods whose links are plugged in there, and up."""
        for entry in self._entries.values():
            if entry.is_new and entry.netns not in guarded:
                for peer in connected_namespaces(entry):
                    self._new_pods.setdefault(peer, []).append(entry.netns)
        self._without_rules = {
            netns
            for netns, entry in self._entries.items()
            if any(operation.object.applier == "rules" for operation in entry.operations)
        }
        """Namespaces whose rules are still to be loaded."""
        self._with_daemons = {
            netns
            for netns, entry in self._entries.items()
            if any(operation.object.applier in _OF_DAEMONS for operation in entry.operations)
        }
        """Namespaces whose daemons are still to be started, reloaded or stopped."""
        self._diff_cache = DiffCache()
        """Differences of rules, which most nodes share."""
        self._with_servers: set[str] = set()
        """Pods whose servers have been started, or are being started."""
        self._tasks: list[asyncio.Task[None]] = []
        self._made_count = 0
        self._progress_at = 0.0
        """Time of the latest progress message, by the monotonic clock."""

    def namespace_made(self, netns: str) -> None:
        """Begin what a complete namespace allows: load its rules, start servers in its pods.

        A namespace is complete when all links that are plugged into it exist, too.
        """
        self._made_count += 1
        if (now := time.monotonic()) - self._progress_at >= PROGRESS_INTERVAL_S:
            self._progress_at = now
            self._report_progress(NamespaceMade(netns, self._made_count))
        if netns not in self._builder.pauses:
            return
        if self._entries[netns].is_new:
            self._builder.links.add(netns, self._builder.pauses[netns].pid)
            if netns in self._without_rules:
                self._begin(self._load_rules(netns))
            if netns in self._with_daemons:
                self._begin(self._change_daemons(netns))
        if pods := self._new_pods.get(netns):
            self._begin(self._start_servers([pod for pod in pods if pod in self._builder.pauses]))

    async def finish(self, apply_late: Callable[[], Awaitable[None]] | None) -> None:
        """Finish the tasks, then do the rest: rules of existing namespaces, and programs.

        One-shot programs come last: they use the network once and end.

        apply_late: applies the changes that wait for all rules; programs wait for it.
        """
        for task in self._tasks:
            await task
        rules = (
            *(self._load_rules(netns) for netns in sorted(self._without_rules)),
            *(self._change_daemons(netns) for netns in sorted(self._with_daemons)),
        )
        if apply_late is not None:
            await asyncio.gather(*rules)
            await apply_late()
            rules = ()
        others = [netns for netns in self._entries if netns not in self._with_servers]
        await asyncio.gather(
            *rules,
            *self._program_changes(others, lambda program: not is_one_shot(program)),
            *self._program_changes(self._with_servers, _is_command),
        )
        await asyncio.gather(*self._program_changes(self._entries, is_one_shot))

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _start_servers(self, pods: list[str]) -> None:
        """Start the servers in new pods of one node, then their probes."""
        self._with_servers.update(pods)
        await asyncio.gather(*self._program_changes(pods, _is_server))
        probes = self._probes()
        started = [
            netns
            for netns in pods
            if netns in probes and all(_is_server(run.program) for _, run in self._programs[netns])
        ]
        await self._builder.probes.update(
            {netns: probes[netns] for netns in started}, self._builder.nodes
        )

    async def _load_rules(self, netns: str) -> None:
        builder = self._builder
        if (pause := builder.pauses.get(netns)) is None:
            return
        self._without_rules.discard(netns)
        old, new = (
            rules_of(contents.values())
            for contents in (builder.observed_state.contents.get(netns, {}), self._desired[netns])
        )
        error = await builder.rules.apply(netns, pause.id, old, new, self._diff_cache)
        self._probes()  # plans the probes, which are needed next, while other nodes load rules
        if error is None:
            builder.nodes_with_refused_rules.discard(netns)
            builder.observed_state.record_applied(netns, new, removed=old)
        else:
            builder.nodes_with_refused_rules.add(netns)
            self.refused.setdefault(netns, []).append(
                describe_refused_rules(netns, *error, self._desired)
            )

    async def _change_daemons(self, netns: str) -> None:
        """Start, reload and stop daemons of one namespace, whose files have been written."""
        builder = self._builder
        self._with_daemons.discard(netns)
        pause, context = builder.pauses.get(netns), self._contexts.get(netns)
        if pause is None or context is None:
            return
        contents, operations = self._desired[netns], self._entries[netns].operations
        builder.observed_state.watch_files(netns, contents)
        for task in daemon_tasks(operations, contents):
            error = await perform(task, builder.daemons, pause.id, context.files)
            if error is None:
                added = [] if task.action == "stop" else [task.daemon]
                builder.observed_state.record_applied(netns, added, removed=[task.daemon])
            else:
                message = describe_refused_daemon(task, error, self._desired)
                self.refused.setdefault(netns, []).append(message)

    def _program_changes(
        self, namespaces: Iterable[str], selects: Callable[[str], bool]
    ) -> Iterator[Coroutine[object, object, None]]:
        """Yield a coroutine for each namespace with changes of programs that `selects` accepts."""
        for netns in namespaces:
            if operations := [
                (verb, run) for verb, run in self._programs[netns] if selects(run.program)
            ]:
                yield self._change_programs(netns, operations)

    async def _change_programs(
        self, netns: str, operations: Iterable[tuple[Verb, ProgramRun]]
    ) -> None:
        """Start and stop programs of one namespace, one after the other."""
        builder = self._builder
        pause, context = builder.pauses.get(netns), self._contexts.get(netns)
        if pause is None or context is None:
            return
        for verb, run in operations:
            if verb == "remove":
                await builder.runtime.stop(run, context.node)
                builder.observed_state.record_applied(netns, removed=[run])
                continue
            environment = partial(self._contexts.environment, netns, run.container)
            try:
                error = await builder.runtime.start(run, pause.id, context, environment)
            except OSError as log_error:  # the container's log cannot be put aside or written
                error = os_error_text(log_error)
            if error is None:
                builder.observed_state.record_applied(netns, [run], removed=[run])
            else:
                message = describe_refused_program(run, error, self._desired)
                self.refused.setdefault(netns, []).append(message)


def rules_of(objects: Iterable[Object]) -> list[RuleObject]:
    """Return the objects that node agents load."""
    # An attribute of the class takes a quarter of the time of isinstance().
    return cast("list[RuleObject]", [obj for obj in objects if obj.applier == RuleObject.applier])


def programs_of(objects: Iterable[Object]) -> list[ProgramRun]:
    """Return the objects that app workers and init run."""
    return [obj for obj in objects if isinstance(obj, ProgramRun)]


def _changes_kernel(entry: NetnsChanges) -> bool:
    """Return True if the changes of a namespace are more than rules and programs."""
    return (
        entry.is_new
        or entry.is_removed
        or any(operation.object.applier in KERNEL_APPLIERS for operation in entry.operations)
    )


def _is_server(program: str) -> bool:
    """Return True for a built-in server: it can start before its pod reaches all others."""
    return program != COMMAND and not is_one_shot(program)


def _is_command(program: str) -> bool:
    """Return True for a real command.

    It may use the network as soon as it starts, so it starts after all rules have been loaded.
    """
    return program == COMMAND
