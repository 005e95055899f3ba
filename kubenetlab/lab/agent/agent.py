"""The agent: the lab's brain and builder. Whatever happens, it asks the controllers, plans, compares and applies, until nothing is left.

It may die at any moment: the objects are in the store file, everything else is in the kernel and in the other processes, and the
next agent finds it there. The first one tells `up` how it gets on.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers import BURST, Controllers
from kubenetlab.datapath.contexts import Contexts
from kubenetlab.errors import ApplyError, reason, refusal
from kubenetlab.hoststate.diff import Changes, diff
from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import Contents, HostState, peer_ends
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces.netns_pool import NetnsPool
from kubenetlab.kernel.namespaces.sandboxes import Pause, Sandboxes
from kubenetlab.lab import machine, rundir
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.agent.builder import Builder, Refused, of_hand
from kubenetlab.lab.agent.desired_state import DesiredState
from kubenetlab.lab.agent.error_report import condensed
from kubenetlab.lab.agent.exit_watcher import ExitWatcher
from kubenetlab.lab.agent.kube_proxy_notifier import KubeProxyNotifier
from kubenetlab.lab.agent.netns_links import NetnsLinks
from kubenetlab.lab.agent.node_agent_client import NodeAgentClient
from kubenetlab.lab.agent.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.agent.observed_state import ObservedState
from kubenetlab.lab.agent.probe_client import ProbeClient
from kubenetlab.lab.agent.retries import Retries
from kubenetlab.lab.agent.runtime_client import RuntimeClient
from kubenetlab.lab.agent.takeover import take_over
from kubenetlab.lab.agent.turns import Turns
from kubenetlab.lab.agent.watchers import Watchers
from kubenetlab.lab.capacity import check_growth
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.log import log
from kubenetlab.lab.paths import LAB
from kubenetlab.lab.store import recovery, store_file
from kubenetlab.lab.transport.frames import Message
from kubenetlab.lab.transport.rpc import exit_on_failure

MAX_ROUNDS = 1000
"""So many rounds without a rest are nobody's intention."""
REPAIR_AFTER_S = 1.0
MAX_LOGGED = 20
"""Maximum number of differences that are logged for one edit of a namespace's rules."""
FIRST_ANSWERS_S = 0.1
"""How long those who have just been started are waited for: the next round takes them together."""
GREETING_S = 0.005
"""For so long a new agent only answers those who have been waiting for it."""
PROBES = "probes"
"""Name, among what fails, of the probes that a node agent has not taken."""

Serve = Callable[["Agent", str], Coroutine[Any, Any, None]]


class Agent:
    """One agent's life. `cluster` is the store, `desired` what follows from it, `sight` what there is."""

    def __init__(self, boot: LabContext) -> None:
        self.lab = boot.lab
        self.directory = Path(boot.directory)
        self.clock = boot.clock
        self.cluster: Cluster = boot.state or Cluster()
        self.wanted = DesiredState()
        self.failures: dict[str, str] = {}
        """Namespace → what Linux refused there; empty again when it is done."""
        self._kept_rules: set[str] = set()
        self._logging: set[asyncio.Task[None]] = set()
        """Nodes whose rules somebody else has changed, and that are to be kept so."""
        self.sandboxes = Sandboxes(boot.lab, boot.path(rundir.PAUSE))
        self.kernel = LinuxKernel(self.sandboxes)
        self.kernel_is_free = asyncio.Lock()
        """Held while the kernel is changed, by whoever looks at it in between."""
        self.sight = ObservedState(
            self.kernel, lambda: self.is_idle, self._repair_soon, self._pause_exited
        )
        self.exits = ExitWatcher(self._pause_exited)
        self.runs = RuntimeClient(
            self.directory,
            boot.workers,
            self._record_program_reports,
            self._lost_programs,
            self.sandboxes.id,
        )
        self.proxies = KubeProxyNotifier(self.runs)
        node_agents = NodeAgentConnections(
            self.directory,
            boot.node_agents,
            self._receive_node_agent_event,
            self._node_agent_replaced,
        )
        self.rules = NodeAgentClient(
            node_agents, self.directory, self._rules_touched, self.proxies.synced
        )
        self.probes = ProbeClient(node_agents, self._record_probe_results)
        self.builder = Builder(
            self.kernel,
            self.sight,
            self.rules,
            self.probes,
            self.runs,
            NetnsLinks(boot.lab, boot.run_netns, boot.outer_proc),
            self.exits,
            self.proxies,
        )
        self.check_room = partial(check_growth, boot)
        self._boot = boot
        self.controllers = Controllers(BURST)
        self._keeper = store_file.StoreFile(
            self.directory / rundir.STORE, boot.state
        )  # `up` has written it down
        self._turns = Turns()
        self._dirty = asyncio.Event()
        self.watchers = Watchers()
        """Told whenever the store, or being idle, has changed."""
        self._needs_check = self._is_applying = False
        self._refusals, self._failed_rounds = Retries(), Retries()
        self._wake_at: float | None = None
        self.is_idle = False
        """True while there is nothing left to do but to wait."""

    async def run(self, serve: Serve) -> None:
        """Build or take over the lab, then keep it so; `serve` answers the API on the socket of a name.

        Raises StoreError, having touched nothing, where a former agent has left no store that can be read.
        """
        is_first = self._boot.progress is not None
        if not is_first:
            self.cluster = self._keeper.adopt(recovery.recovered(self.directory / rundir.STORE))
        self._serve(serve, rundir.INNER_API_SOCKET)
        if is_first:
            await self.reconcile()
            self.sight.open()
            self._hand_over()
            self._serve(serve, rundir.API_SOCKET)
        else:
            self.sandboxes.adopt()
            self._serve(serve, rundir.API_SOCKET)
            await asyncio.sleep(GREETING_S)
            await take_over(self)
            await self._attempt()
        while True:
            await self._wait()
            await self._attempt()

    def _serve(self, serve: Serve, name: str) -> None:
        asyncio.get_running_loop().create_task(serve(self, name)).add_done_callback(exit_on_failure)

    # --- what others call ---

    def learn(self, changes: Iterable[Change]) -> None:
        """News: they change the store, and are reconciled at once."""
        after = self.cluster.with_changes(changes)
        if after is not self.cluster:
            self.cluster = after
            self.wake()

    def replace(self, cluster: Cluster, content: Controllers | None = None) -> None:
        """A new store, from an admitted request, and the controllers that are content with it, where they were asked."""
        self.cluster, self.controllers = cluster, content or self.controllers
        self.wake()

    def wake(self, *, check: bool = False) -> None:
        """Has the agent reconcile, and with `check` ask first whether the rules are as they were left, and read the nodes."""
        self.is_idle = False
        self._needs_check |= check
        self._dirty.set()

    @property
    def desired(self) -> HostState:
        """What should exist."""
        return self.wanted.state

    @property
    def known(self) -> dict[str, Contents]:
        """What exists in each namespace, as far as it has been made, seen or told."""
        return self.sight.known

    @property
    def decisions(self) -> Decisions:
        return machine.decisions(self.cluster)

    @property
    def contexts(self) -> Contexts:
        return Contexts(self.cluster, self.decisions)

    # --- rounds ---

    async def _attempt(self) -> None:
        """Reconciles. What fails is told, and tried again."""
        self.is_idle = False
        try:
            await self.reconcile()
        except Exception as error:
            log(f"this round failed:\n{traceback.format_exc()}")
            if self._is_applying:
                os._exit(1)  # nobody knows how far it came: the next one finds out
            self.failures[LAB] = reason(error)
            self._retry(self._failed_rounds, [LAB])
            self.watchers.notify()

    async def reconcile(self) -> None:
        """Rounds until one changes nothing."""
        self.failures.pop(LAB, None)
        for _ in range(MAX_ROUNDS):
            self._dirty.clear()
            self.sight.is_keeping = self.cluster.config.drift == "keep"
            is_checking, self._needs_check = self._needs_check, False
            if is_checking:
                await self._check_rules()
            self.sight.refresh(self.desired)
            if is_checking:
                self.sight.doubt_shared()  # for a look when what was asked for is in force
            before = self.cluster
            await self._turns.give()
            await self._round()
            if self.cluster is before and not self._dirty.is_set() and not self.sight.has_doubts:
                self._failed_rounds.reset()
                break
        else:
            log(
                f"{MAX_ROUNDS} rounds, and still something changes; a pause, for others to be heard"
            )
            self._retry(self._failed_rounds, [LAB])
        self.is_idle = True
        self.watchers.notify()

    async def _round(self) -> None:
        cluster, self._wake_at = self.cluster, None
        if cluster is not self._boot.state:  # with which they were content a moment ago
            cluster, self._wake_at = self.controllers.run(cluster, self.clock.now())
        self.cluster = cluster = cluster.with_changes([machine.decisions(cluster)])
        try:
            self.save()
        except store_file.UnstorableError as error:  # a controller's mistake: what the next agent can read is kept, and the pass fails
            self.cluster = error.readable
            self.save()
            raise
        await self._turns.give()
        self.wanted.follow(cluster)
        await self._turns.give()
        changes = diff(HostState(self.known), self.desired)
        # A refusal is over when nothing is left to do there: what could not be removed may have gone by itself.
        self.failures = {
            netns: text
            for netns, text in self.failures.items()
            if netns in changes.touched or netns == LAB
        }
        if changes:
            self._is_applying = True
            await self._apply(changes)
            self._is_applying = False
            self._turns.begin()
        is_asked = await self.probes.replace(self.wanted.probes(), self.builder.nodes)
        await self.probes.wait_for_first_results(FIRST_ANSWERS_S if changes else 0)
        self._retry(self._refusals, self.failures if is_asked else [*self.failures, PROBES])
        if not self.builder.unruled:  # no node sends anybody to a pod that is going any more
            for pod in cluster.all(Pod):
                if pod.is_terminating:
                    self.learn(status_reports.detached(self.cluster, pod))

    def _retry(self, retries: Retries, failing: Iterable[str]) -> None:
        """Have what fails tried again, after a delay that grows with each attempt."""
        if (at := retries.schedule(failing, self.clock.now())) is not None:
            self._wake_at = min(self._wake_at or at, at)

    def save(self) -> None:
        """Writes the store where it is not written yet: before the kernel is touched, and before a request that changed it is answered."""
        if self._keeper.save(self.cluster):
            self.watchers.notify()
        self.runs.acknowledge()

    async def _apply(self, changes: Changes) -> None:
        async with self.kernel_is_free:
            if self._boot.blanks is not None:
                self.sandboxes.blanks, self._boot.blanks = NetnsPool(self._boot.blanks), None
            refused = await self.builder.apply(
                changes, self.desired, self.contexts, self.wanted.probes, self._boot.tell_progress
            )
        self.exits.reap()
        self.sandboxes.close_blanks()
        pauses = self.sandboxes.pauses.copy()
        made = [
            entry.netns for entry in changes.namespaces if entry.is_new and entry.netns in pauses
        ]
        self.learn(
            change
            for netns in made
            for change in status_reports.sandbox_made(self.cluster, netns, pauses[netns].pid)
        )
        if departed := changes.departed():
            self.wanted.forget(departed)
        self._settle(changes, refused)

    def _settle(self, changes: Changes, refused: Refused) -> None:
        """What is known after an apply. Where everything went well it is the plan itself; elsewhere Linux is asked."""
        for entry in changes.namespaces:
            self.failures.pop(entry.netns, None)
            if entry.netns in refused or entry.netns not in self.sandboxes.pauses:
                continue
            self.known[entry.netns] = self.desired[entry.netns]
        for netns, texts in refused.items():
            self.failures[netns] = "\n".join(texts)
            self.learn(status_reports.sandbox_failed(self.cluster, netns, texts[0]))
            for text in texts:
                log(text)
        if refused:
            if self._boot.progress is not None:
                raise ApplyError(condensed(text for texts in refused.values() for text in texts))
            self.sight.look_at(self.desired, refused)

    def _repair_soon(self) -> None:
        """Somebody else has changed something; he may want to see it before it is as it was."""
        asyncio.get_running_loop().call_later(REPAIR_AFTER_S, self.wake)

    def _rules_touched(self, netns: str) -> None:
        """Somebody else changed rules there: our tables are made anew, unless they are to be kept as they are."""
        if self.sight.is_keeping:
            self.sight.note_kept(netns)
            self._kept_rules.add(netns)
            return
        loaded = of_hand(self.known.get(netns, {}).values(), "rules")
        self._renew_rules(netns)
        if loaded:
            self._logging.add(
                task := asyncio.get_running_loop().create_task(self._log_edits(netns, loaded))
            )
            task.add_done_callback(self._logging.discard)
        self._repair_soon()

    async def _log_edits(self, netns: str, loaded: Sequence[RuleObject]) -> None:
        """Log what others have changed, unless that takes so long that the repair would have to wait for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REPAIR_AFTER_S), self.kernel_is_free:
                node = self.sandboxes.id(netns)
                edits = await self.rules.edits(netns, node, loaded) if node is not None else []
                for edit in edits[:MAX_LOGGED]:
                    log(f"{netns}: somebody changed the rules: {edit.line}")
                if len(edits) > MAX_LOGGED:
                    log(
                        f"{netns}: somebody changed the rules: {len(edits) - MAX_LOGGED} more differences"
                    )

    def _renew_rules(self, netns: str) -> None:
        log(f"{netns}: somebody changed the rules; they are made anew")
        self.rules.mark_stale(netns)
        self.sight.note(netns, instead_of=of_hand(self.known.get(netns, {}).values(), "rules"))

    async def _check_rules(self) -> None:
        """Asks whether the rules are as they were left."""
        for netns in {
            *await self.rules.touched(self.builder.nodes),
            *self._kept_rules,
        } & self.known.keys():
            self._renew_rules(netns)
        self._kept_rules.clear()

    # --- lives of others ---

    def _receive_node_agent_event(self, event: Message) -> None:
        match event["event"]:
            case "probes":
                self.probes.record_results(event["probes"])
            case "touched":
                self.rules.note_touched(event["netns"])

    def _record_probe_results(self, results: Sequence[Message]) -> None:
        reports = self.clock.of_lab(results)
        self.learn(status_reports.probe_reports(self.cluster, reports))

    def _record_program_reports(self, reports: Sequence[Message]) -> None:
        reports = self.clock.of_lab(reports)
        self.learn(status_reports.program_reports(self.cluster, reports))

    def _node_agent_replaced(self) -> None:
        """Send a new node agent its probes, and check the rules that its predecessor watched."""
        self.probes.reset()
        self.wake(check=True)

    def _pause_exited(self, netns: str, pause: Pause) -> None:
        """A pause process has exited; its exit is recorded once, and never as that of a successor."""
        if self.sandboxes.discard(netns, pause):
            self.sandbox_lost(netns)
        if not self.kernel_is_free.locked():
            self.exits.reap()

    def sandbox_lost(self, netns: str) -> None:
        """A sandbox has gone with its pause process: its namespaces, and the other ends of its links."""
        log(f"{netns}: its pause process died")
        self.builder.forget(netns)
        is_shared = not netns.startswith("pod/")  # nothing is plugged into a pod
        for other, contents in self.desired.namespaces.items() if is_shared else ():
            if any(
                obj.peer_end is not None and obj.peer_end[0] == netns for obj in contents.values()
            ):
                self.sight.doubt([other])
            if any(isinstance(obj, Sandbox) and obj.shares == netns for obj in contents.values()):
                self.sandboxes.kill(
                    other
                )  # a hostNetwork pod would keep the dead node's network, and its links, alive
        self._refusals.reset()
        self.sight.doubt(peer_ends(self.desired, [netns]))
        self.learn(status_reports.sandbox_made(self.cluster, netns, 0))
        self.wake()

    def _lost_programs(self, namespaces: list[str]) -> None:
        """An app worker died: its sockets are opened anew by its successor."""
        self.proxies.forget(namespaces)
        for netns in namespaces:
            self.sight.note(
                netns, instead_of=of_hand(self.known.get(netns, {}).values(), "programs")
            )
        self.wake()

    # --- the rest ---

    async def _wait(self) -> None:
        """Until there is something to do: news, a timer, or something that is not as it was known."""
        while True:
            wake_s = (
                self._wake_at - self.clock.now()
                if self._wake_at is not None
                else self.sight.next_slice_s
            )
            try:
                async with asyncio.timeout(max(0.0, min(self.sight.next_slice_s, wake_s))):
                    await self._dirty.wait()
                return
            except TimeoutError:
                if self._wake_at is not None and self._wake_at <= self.clock.now():
                    return
            try:
                if self.sight.refresh(self.desired):
                    return
            except OSError as error:
                log(f"nothing was looked at: {refusal(error)}")
                return

    def _hand_over(self) -> None:
        """Everything is built: from now on `up` is a client like any other."""
        self._boot.tell_progress(
            built=len(self.known),
            reasons=list(self.decisions.reasons) if self.decisions.is_final else [],
        )
        self._boot.end_progress()
