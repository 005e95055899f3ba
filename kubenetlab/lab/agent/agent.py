"""The agent: the process that keeps the kernel as the lab's objects describe it.

Any change of the store, of the kernel or of another process of the lab wakes the agent. It then
runs reconcile passes until one changes nothing. The agent may be killed at any moment: objects are
in the store file, everything else is in the kernel and in other processes, where the next agent
finds it. The first agent of a lab reports its progress to `up`.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from kubenetlab import controllers
from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.datapath.contexts import Contexts
from kubenetlab.errors import error_text, os_error_text
from kubenetlab.hoststate.diff import Changes
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.netns_pool import NetnsPool
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from kubenetlab.lab import machine, rundir
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.agent.application import record_applied, record_sandboxes
from kubenetlab.lab.agent.builder import Builder
from kubenetlab.lab.agent.clients.daemon_client import DaemonClient
from kubenetlab.lab.agent.clients.node_agent_client import NodeAgentClient
from kubenetlab.lab.agent.clients.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.agent.clients.plugin_client import PluginClient
from kubenetlab.lab.agent.clients.probe_client import ProbeClient
from kubenetlab.lab.agent.clients.runtime_client import RuntimeClient
from kubenetlab.lab.agent.desired_state import DesiredState
from kubenetlab.lab.agent.exit_watcher import ExitWatcher
from kubenetlab.lab.agent.kube_proxy_notifier import KubeProxyNotifier
from kubenetlab.lab.agent.netns_links import NetnsLinks
from kubenetlab.lab.agent.observed_state import ObservedState
from kubenetlab.lab.agent.probe_retries import retry_failing
from kubenetlab.lab.agent.process_events import ProcessEvents
from kubenetlab.lab.agent.provided_routes import ProvidedRoutes
from kubenetlab.lab.agent.reconcile import reconcile
from kubenetlab.lab.agent.retries import Retries
from kubenetlab.lab.agent.rule_edits import REPAIR_AFTER_S, RuleEdits
from kubenetlab.lab.agent.takeover import take_over
from kubenetlab.lab.agent.turns import Turns
from kubenetlab.lab.agent.watchers import Watchers
from kubenetlab.lab.bootstrap import Bootstrap
from kubenetlab.lab.capacity import check_growth
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.log import log
from kubenetlab.lab.messages.creation import LabBuilt
from kubenetlab.lab.paths import WHOLE_LAB
from kubenetlab.lab.store import recovery, store_file
from kubenetlab.lab.transport.rpc import exit_on_failure

MAX_PASSES: Final = 1000
"""Maximum number of reconcile passes before the agent pauses: more are a controller's mistake."""
GREETING_S: Final = 0.005
"""Time in which a new agent only answers queued requests, in seconds."""
PROBES: Final = "probes"
"""Key for probes that a node agent did not accept, among the failures to retry."""

Serve = Callable[["Agent", str], Coroutine[object, object, None]]
"""Answer the API on the listening socket of a name, for ever."""


class Agent:
    """The state of a lab as one agent process has it.

    `cluster` has the objects of the store, `desired` the kernel objects that follow from them, and
    `observed` the kernel objects that exist.
    """

    def __init__(self, context: LabContext) -> None:
        """Create the clients of all other processes. Call it in a running event loop."""
        self._context = context
        self.lab = context.lab
        self.directory = Path(context.directory)
        self.clock = context.clock
        start = context.bootstrap or Bootstrap()
        self.cluster, self.controller_states = start.cluster, start.controller_states
        self.desired_state = DesiredState()
        self.failures: dict[str, str] = {}
        """Namespace → what the kernel refused there, until it succeeds."""
        self.is_idle = False
        """True while the agent waits for an event or a timer."""
        self.watchers = Watchers()
        """Notified when the store or `is_idle` changes."""
        self.turns = Turns()
        self.require_capacity = partial(check_growth, context)
        # `up` has written this store to disk already.
        self._store = store_file.StoreFile(self.directory / rundir.STORE, start.cluster)
        self._dirty = asyncio.Event()
        """Set when there is something to reconcile."""
        self._needs_check = False
        """True if the next pass compares rules and shared namespaces with the kernel first."""
        self._is_applying = False
        self.refusals, self._failed_passes = Retries(), Retries()
        self._wake_at: float | None = None
        """Time of the next pass without an event, in seconds of the lab's clock."""

        self.sandboxes = Sandboxes(context.lab, context.path(rundir.PAUSE))
        self.kernel = LinuxKernel(self.sandboxes, FileTrees(self.directory / rundir.FILES))
        self.kernel_lock = asyncio.Lock()
        """Held while the kernel is changed, and while it is read outside a reconcile pass."""
        events = ProcessEvents(self)
        self.observed_state = ObservedState(
            self.kernel, lambda: self.is_idle, self._repair_soon, events.pause_exited
        )
        self.exit_watcher = ExitWatcher(events.pause_exited)
        self.runtime = RuntimeClient(
            self.directory,
            context.worker_count,
            events.programs_reported,
            events.programs_lost,
            self.sandboxes.id,
        )
        self.daemons = DaemonClient(
            self.directory, self.kernel.files, lambda netns: self.provided_routes.check(netns)
        )
        self.provided_routes = ProvidedRoutes(
            self.daemons,
            self.sandboxes,
            self.kernel_lock,
            lambda: self.desired,
            self.watchers.notify,
        )
        self.kube_proxies = KubeProxyNotifier(self.runtime, self.desired_state.cache)
        node_agents = NodeAgentConnections(
            self.directory,
            context.node_agent_count,
            events.node_agent_reported,
            events.node_agent_replaced,
        )
        self.rules = NodeAgentClient(
            node_agents, self.directory, events.rules_edited, self.kube_proxies.queue_sync
        )
        self.rule_edits = RuleEdits(
            self.rules, self.observed_state, self.sandboxes, self.kernel_lock, self._repair_soon
        )
        self.probes = ProbeClient(node_agents, events.probes_reported)
        self.plugins = PluginClient(node_agents, events)
        self.builder = Builder(
            self.kernel,
            self.observed_state,
            self.rules,
            self.probes,
            self.runtime,
            NetnsLinks(context.lab, context.run_netns_fd, context.outer_proc_fd),
            self.exit_watcher,
            self.kube_proxies,
            self.daemons,
        )

    async def run(self, serve: Serve) -> None:
        """Build or take over the lab, then reconcile it for ever.

        Raises StoreError, before anything is changed, if a former agent left no readable store.
        """
        is_first = self._context.progress is not None
        if not is_first:
            self.cluster = self._store.adopt(recovery.recover(self.directory / rundir.STORE))
        self._serve(serve, rundir.INNER_API_SOCKET)
        if is_first:
            await self._converge()
            self.observed_state.start_monitoring()
            self._end_progress()
            self._serve(serve, rundir.API_SOCKET)
        else:
            self.sandboxes.adopt()
            self._serve(serve, rundir.API_SOCKET)
            await asyncio.sleep(GREETING_S)
            await take_over(self)
            await self._converge_or_retry()
        while True:
            await self._wait()
            self.turns.reset()
            await self._converge_or_retry()

    def _serve(self, serve: Serve, name: str) -> None:
        asyncio.get_running_loop().create_task(serve(self, name)).add_done_callback(exit_on_failure)

    # --- requests of the API and of other modules ---

    def apply_changes(self, changes: Iterable[Change]) -> None:
        """Change objects in the store, and reconcile if that makes a difference."""
        after = self.cluster.with_changes(changes)
        if after is not self.cluster:
            self.cluster = after
            self.wake()

    def replace(self, cluster: Cluster, states: ControllerStates | None = None) -> None:
        """Replace the store, and reconcile.

        states: those of the controllers if they have already run on `cluster`.
        """
        self.cluster, self.controller_states = cluster, states or self.controller_states
        self.wake()

    def wake(self, *, check: bool = False) -> None:
        """Reconcile soon.

        check: first look for rules and shared namespaces that another process has changed, and for
            routes of daemons that have gone.
        """
        if check:
            self.provided_routes.check_all()
        self.is_idle = False
        self._needs_check |= check
        self._dirty.set()

    @property
    def desired(self) -> HostState:
        """The kernel objects that should exist."""
        return self.desired_state.state

    @property
    def observed(self) -> dict[str, Contents]:
        """The objects that exist in each namespace, as far as they were made, read or reported."""
        return self.observed_state.contents

    @property
    def decisions(self) -> Decisions:
        """Choices for this lab on this machine, such as its pod layout, with the reasons."""
        return machine.decisions(self.cluster)

    @property
    def contexts(self) -> Contexts:
        """The context of every namespace that programs run in."""
        return Contexts(self.cluster, self.decisions, self.desired_state.cache)

    # --- the loop ---

    async def _converge_or_retry(self) -> None:
        """Reconcile; log an error and schedule a retry."""
        self.is_idle = False
        try:
            await self._converge()
        except Exception as error:
            log(f"a reconcile pass failed:\n{traceback.format_exc()}")
            if self._is_applying:
                os._exit(1)  # how much was applied is unknown: the next agent reads the kernel
            self.failures[WHOLE_LAB] = error_text(error)
            self._retry(self._failed_passes, [WHOLE_LAB])
            self.watchers.notify()

    async def _converge(self) -> None:
        """Run reconcile passes until one changes nothing."""
        self.failures.pop(WHOLE_LAB, None)
        for _ in range(MAX_PASSES):
            self._dirty.clear()
            await self._refresh()
            before = self.cluster
            await self.turns.yield_to_clients()
            await reconcile(self)
            is_unchanged = self.cluster is before and not self._dirty.is_set()
            if is_unchanged and not self.observed_state.is_stale:
                self._failed_passes.reset()
                break
        else:
            log(f"{MAX_PASSES} reconcile passes did not reach a stable state; pausing")
            self._retry(self._failed_passes, [WHOLE_LAB])
        self.is_idle = True
        self.watchers.notify()

    async def _refresh(self) -> None:
        """Bring the observed state up to date, as the first step of a pass."""
        self.observed_state.keeps_drift = self.cluster.config.drift == "keep"
        is_checking, self._needs_check = self._needs_check, False
        if is_checking:
            await self.rule_edits.check(self.builder.nodes)
            await retry_failing(self)
        self.observed_state.refresh(self.desired)
        if is_checking:  # read by the next pass, after this one has applied
            self.observed_state.mark_shared_stale()

    async def _wait(self) -> None:
        """Return when there is something to do: an event, a timer, or drift."""
        while True:
            scan_s = self.observed_state.until_next_batch_s
            wake_s = self._wake_at - self.clock.now() if self._wake_at is not None else scan_s
            try:
                async with asyncio.timeout(max(0.0, min(scan_s, wake_s))):
                    await self._dirty.wait()
                return
            except TimeoutError:
                if self._wake_at is not None and self._wake_at <= self.clock.now():
                    return
            try:
                if self.observed_state.refresh(self.desired):
                    return
            except OSError as error:
                log(f"the namespaces cannot be read: {os_error_text(error)}")
                return

    def _end_progress(self) -> None:
        """Tell `up` that the lab is built; from now on `up` is an ordinary client."""
        reasons = self.decisions.reasons if self.decisions.is_final else ()
        engine = filter(None, (self.decisions.policy_engine_reason,))
        self._context.send_progress(LabBuilt(len(self.observed), (*reasons, *engine)))
        self._context.close_progress()

    # --- steps of a reconcile pass ---

    def run_controllers(self) -> Cluster:
        """Run the controllers on the store and return the new one; note when to run them again."""
        cluster, self.controller_states = controllers.run(
            self.cluster, self.controller_states, self.clock.now()
        )
        self._wake_at = self.controller_states.wake_at
        self.cluster = cluster.with_changes([machine.decisions(cluster)])
        return self.cluster

    def save(self) -> None:
        """Write the store to disk if it has changed, and let init forget exits that it contains.

        Called before the kernel is changed, and before a request that changed the store is
        answered. Raises UnstorableError.
        """
        if self._store.save(self.cluster):
            self.watchers.notify()
        self.runtime.acknowledge()

    def save_readable(self) -> None:
        """Write the store to disk; keep the former state of objects that a new agent cannot read.

        Raises UnstorableError if there are such objects: a controller's mistake.
        """
        try:
            self.save()
        except store_file.UnstorableError as error:
            self.cluster = error.readable
            self.save()
            raise

    def drop_resolved_failures(self, changes: Changes) -> None:
        """Drop failures of namespaces without changes: an object may have gone by itself."""
        self.failures = {
            netns: text
            for netns, text in self.failures.items()
            if netns in changes.changed_namespaces or netns == WHOLE_LAB
        }

    async def apply(self, changes: Changes) -> None:
        """Apply changes, and record what exists then and what the kernel refused.

        Raises ApplyError for refusals while `up` is waiting.
        """
        self._is_applying = True
        async with self.kernel_lock:
            if (source := self._context.netns_pool) is not None:
                self.sandboxes.netns_pool, self._context.netns_pool = NetnsPool(source), None
            refused = await self.builder.apply(
                changes,
                self.desired,
                self.contexts,
                self.desired_state.probes,
                self._context.send_progress,
            )
        self.exit_watcher.reap()
        self.sandboxes.close_netns_pool()
        record_sandboxes(self, changes)
        if departed := changes.removed_namespaces():
            self.desired_state.forget(departed)
        record_applied(self, changes, refused, is_awaited=self._context.progress is not None)
        self._is_applying = False
        self.turns.reset()

    def schedule_retries(self, *, are_probes_accepted: bool) -> None:
        """Schedule the next attempt of everything that failed in this pass."""
        failing = self.failures if are_probes_accepted else [*self.failures, PROBES]
        self._retry(self.refusals, failing)

    def _retry(self, retries: Retries, failing: Iterable[str]) -> None:
        """Wake the agent when the first of the failures is to be tried again."""
        if (at := retries.schedule(failing, self.clock.now())) is not None:
            self._wake_at = min(self._wake_at or at, at)

    def record_detached_pods(self) -> None:
        """Record that terminating pods have left all rules, unless a node's rules are outdated."""
        if not self.builder.nodes_with_refused_rules:
            self.apply_changes(status_reports.all_detached(self.cluster))

    def record_replaced_sandboxes(self) -> None:
        """Record that pods of a former CNI mode have no sandbox any more, so that they get one."""
        changes = status_reports.replaced_sandboxes(self.cluster, self.sandboxes.pauses)
        self.apply_changes(changes)

    def _repair_soon(self) -> None:
        """Reconcile after REPAIR_AFTER_S."""
        asyncio.get_running_loop().call_later(REPAIR_AFTER_S, self.wake)
