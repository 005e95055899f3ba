"""Client of the node agents for CNI plugins: ADD for new sandboxes, DEL before they are removed.

Calls run beside the agent's passes, because a plugin may take as long as its time limit. A call
that fails is repeated with a back-off. The results of ADD are files of the node, so that a new
agent, which knows of no call, asks again and gets the same answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Coroutine, Mapping, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct, structs

from kubenetlab.cni.calls import AttachedPod, NodePlugins
from kubenetlab.cni.capabilities import PodSandbox
from kubenetlab.datapath.attachments import AttachmentPlan, PodAttachment
from kubenetlab.hoststate.diff import Changes, NetnsChanges
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.call_slots import CallSlots
from kubenetlab.lab.agent.clients.network_status import NetworkStatus
from kubenetlab.lab.agent.clients.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.log import log
from kubenetlab.lab.messages.node_agent import (
    AttachPod,
    CheckPod,
    CollectGarbage,
    DetachPod,
    Node,
    PluginsFailed,
    PodAttached,
)
from kubenetlab.lab.nodeagent.network_plugins import netns_path
from kubenetlab.lab.transport.protocol import RequestFailed
from kubenetlab.lab.transport.rpc import exit_on_failure

FIRST_RETRY_S: Final = 0.5
"""Delay before the first retry, in seconds; each further one is twice as long."""
MAX_RETRY_S: Final = 30.0
"""Longest delay, in seconds."""
REPORT_DELAY_S: Final = 0.01
"""Time for which a result waits for others, in seconds for each call that is not over.

Each report costs a reconcile pass of the whole lab, which takes longer than most plugins.
"""
MAX_REPORT_DELAY_S: Final = 3.0
"""Longest time for which a result waits for others, in seconds."""

Pauses = Mapping[str, Pause]
"""Namespace → its pause process."""
_Phase = Literal["attaching", "failed", "attached", "detaching", "detached"]


class _Sandbox(Struct):
    """Sandbox of a pod, as far as plugins are concerned."""

    node: Node
    plugins: NodePlugins
    request: PodAttachment
    pause: ProcessId
    id: str
    """Identifier of the sandbox."""
    phase: _Phase
    retry_s: float = FIRST_RETRY_S
    """Delay before the next retry, in seconds."""
    may_be_partial: bool = False
    """True if an earlier ADD may have done a part of its work."""


class AttachmentReport(Struct, frozen=True):
    """End of an ADD."""

    netns: str
    sandbox_id: str
    result: AttachedPod | str
    """Result, or the message of the plugin that has failed."""


class AttachmentEvents(Protocol):
    """Receiver of the results of calls."""

    def attachments_reported(self, reports: Sequence[AttachmentReport]) -> None:
        """Record the results of ADD for some sandboxes."""

    def pod_detached(self) -> None:
        """Note that a sandbox may be removed now."""

    def collection_due(self) -> None:
        """Begin a pass, in which the garbage of a node is collected again."""

    def sandbox_orphaned(self, netns: str) -> None:
        """End a sandbox that was attached to its node before that restarted."""

    def node_left(self, netns: str) -> None:
        """Restart a node whose plugins have been replaced, and have left something there."""

    def network_status_changed(self, netns: str, error: str) -> None:
        """Record the error with which a node's plugins answer STATUS, or an empty text."""


class PluginClient:
    """The sandboxes that CNI plugins have attached, and the calls that are under way."""

    def __init__(self, node_agents: NodeAgentConnections, events: AttachmentEvents) -> None:
        self._node_agents = node_agents
        self._events = events
        self._sandboxes: dict[str, _Sandbox] = {}
        self._plan = AttachmentPlan()
        self._is_first_plan = True
        self._garbage: set[str] = set()
        """Namespaces of nodes on which plugins have to free what lost sandboxes had."""
        self._left: set[Node] = set()
        """Nodes that have other plugins now, or none, until they have restarted."""
        self._restarting: set[Node] = set()
        """Nodes that have been ended for that."""
        self._collecting: dict[Node, asyncio.Event] = {}
        """Node → event at the end of its garbage collection; no ADD begins before."""
        self._status = NetworkStatus(node_agents, events.network_status_changed)
        self._slots = CallSlots(2 * (os.cpu_count() or 1))
        self._reports: dict[str, AttachmentReport] = {}
        """Namespace → the last report that the agent has not been given yet."""
        self._report_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, plan: AttachmentPlan, pauses: Pauses) -> None:
        """Begin the calls that the plan needs: ADD for sandboxes that are not attached."""
        if not (plan.nodes or self._plan.nodes or self._left):
            return
        for netns, plugins in self._plan.nodes.items():
            if plan.nodes.get(netns) != plugins and netns in pauses:
                self._left.add(Node(netns, pauses[netns].id))
        self._plan, pauses = plan, dict(pauses)
        self._restart_left_nodes(pauses)
        self._status.follow(
            {
                Node(netns, pauses[netns].id): plugins
                for netns, plugins in plan.nodes.items()
                if netns in pauses and Node(netns, pauses[netns].id) not in self._left
            }
        )
        for netns, request in plan.pods.items():
            pause, node_pause = pauses.get(netns), pauses.get(request.node_netns)
            if pause is None or node_pause is None:
                continue
            node = Node(request.node_netns, node_pause.id)
            if node in self._left:
                continue  # it restarts first
            known = self._sandboxes.get(netns)
            id_ = sandbox_id(request.sandbox.uid, pause.id, node_pause.id)
            if request.attached_id and request.attached_id != id_:
                self._events.sandbox_orphaned(netns)
                continue
            if known is None or known.id != id_:
                is_attached = request.attached_id == id_
                plugins = plan.nodes[request.node_netns]
                known = self._sandboxes[netns] = _Sandbox(
                    node,
                    plugins,
                    request,
                    pause.id,
                    id_,
                    "attached" if is_attached else "attaching",
                    may_be_partial=pause.is_adopted,
                )
                if not is_attached:
                    self._begin(self._attach(netns, known))
        self._collect_garbage(pauses)

    def detach_first(self, changes: Changes, pauses: Pauses) -> Changes:
        """Return the changes without removals of sandboxes that are attached; begin their DEL.

        A sandbox is removed by a later pass, when its plugins have undone their work. A call that
        fails does not keep the sandbox: its rest is garbage, which is collected later.
        """
        if not self._sandboxes:
            return changes
        removed = {entry.netns for entry in changes.namespaces if entry.is_removed}
        kept = [entry for entry in changes.namespaces if not self._keeps(entry, removed)]
        for netns in [netns for netns in self._sandboxes if netns not in pauses]:
            self._forget(netns)
        return changes if len(kept) == len(changes.namespaces) else Changes(tuple(kept))

    async def failed_checks(self) -> dict[str, str]:
        """Call CHECK for all attached sandboxes; return the messages of plugins by namespace."""
        attached = {
            netns: sandbox
            for netns, sandbox in self._sandboxes.items()
            if sandbox.phase == "attached"
        }
        messages = await asyncio.gather(*map(self._check, attached.values()))
        return {
            netns: message
            for (netns, sandbox), message in zip(attached.items(), messages, strict=True)
            if message and self._sandboxes.get(netns) is sandbox and sandbox.phase == "attached"
        }

    async def _check(self, sandbox: _Sandbox) -> str:
        """Return the message of a plugin that finds a difference, or an empty text."""
        client = self._node_agents.client(sandbox.node.netns)
        async with self._slots.slot(sandbox.node.netns):
            answer = await client.call(
                CheckPod(sandbox.node, sandbox.plugins, _facts(sandbox), sandbox.pause)
            )
        return _message(answer) if isinstance(answer, PluginsFailed | RequestFailed) else ""

    def _keeps(self, entry: NetnsChanges, removed: set[str]) -> bool:
        """Return True if a sandbox that is not desired must wait for its plugins."""
        known = self._sandboxes.get(entry.netns)
        if known is None or not entry.is_removed:
            return False
        if known.phase == "attached":
            if known.node.netns in removed:
                return False  # everything that the plugins made ends with the node
            known.phase = "detaching"
            self._begin(self._detach(entry.netns, known))
        return known.phase in ("attaching", "detaching")

    def _forget(self, netns: str) -> None:
        """Forget a sandbox that is gone; if it was attached, its node has garbage."""
        known = self._sandboxes.pop(netns)
        if known.phase not in ("detached", "failed"):
            self._garbage.add(known.node.netns)

    async def _attach(self, netns: str, sandbox: _Sandbox) -> None:
        """Call ADD until it succeeds or the sandbox is not desired any more."""
        client = self._node_agents.client(sandbox.node.netns)
        facts = _facts(sandbox)
        while self._is_desired(netns, sandbox):
            if not self._status.is_ready(sandbox.node):
                sandbox.phase = "failed"  # nothing has been done that DEL would have to undo
                await self._status.wait_until_ready(sandbox.node)
                if self._is_desired(netns, sandbox):
                    sandbox.phase = "attaching"
                continue
            if (collection := self._collecting.get(sandbox.node)) is not None:
                await collection.wait()  # it would take the new attachment for garbage
            async with self._slots.slot(sandbox.node.netns):
                answer = await client.call(
                    AttachPod(
                        sandbox.node,
                        sandbox.plugins,
                        facts,
                        sandbox.pause,
                        sandbox.may_be_partial,
                    )
                )
            if isinstance(answer, PodAttached):
                sandbox.phase = "attached"
                self._report(netns, sandbox, answer.pod)
                return
            sandbox.may_be_partial = True
            sandbox.phase = "failed"
            message = _message(answer)
            log(f"{netns}: {message}")
            self._report(netns, sandbox, message)
            await asyncio.sleep(sandbox.retry_s)
            sandbox.retry_s = min(2 * sandbox.retry_s, MAX_RETRY_S)
            if self._is_desired(netns, sandbox):
                sandbox.phase = "attaching"
        sandbox.phase = "failed"
        self._events.pod_detached()

    def _is_desired(self, netns: str, sandbox: _Sandbox) -> bool:
        return netns in self._plan.pods and self._sandboxes.get(netns) is sandbox

    def _report(self, netns: str, sandbox: _Sandbox, result: AttachedPod | str) -> None:
        """Report the end of an ADD: at once if no other call is under way, else with the next ones.

        A report about a sandbox that is gone by then is dropped.
        """
        self._reports[netns] = AttachmentReport(netns, sandbox.id, result)
        pending = self._slots.pending
        if not pending:
            self._send_reports()
        elif self._report_timer is None:
            delay_s = min(REPORT_DELAY_S * pending, MAX_REPORT_DELAY_S)
            loop = asyncio.get_running_loop()
            self._report_timer = loop.call_later(delay_s, self._send_reports)

    def _send_reports(self) -> None:
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None
        reports, self._reports = self._reports, {}
        current = [
            report
            for netns, report in reports.items()
            if netns in self._sandboxes and self._sandboxes[netns].id == report.sandbox_id
        ]
        if current:
            self._events.attachments_reported(current)

    async def _detach(self, netns: str, sandbox: _Sandbox) -> None:
        """Call DEL once; then the sandbox can be removed."""
        client = self._node_agents.client(sandbox.node.netns)
        async with self._slots.slot(sandbox.node.netns):
            answer = await client.call(
                DetachPod(sandbox.node, sandbox.plugins, _facts(sandbox), sandbox.pause)
            )
        if isinstance(answer, PluginsFailed | RequestFailed):
            log(f"{netns}: {_message(answer)}; its network will be cleaned up later")
            self._garbage.add(sandbox.node.netns)
        sandbox.phase = "detached"
        self._events.pod_detached()

    def _restart_left_nodes(self, pauses: Pauses) -> None:
        """Restart nodes that have other plugins now, or none, once their pods are detached.

        Plugins leave bridges and rules on a node, which only they know.
        """
        busy = {
            sandbox.node
            for sandbox in self._sandboxes.values()
            if sandbox.phase not in ("detached", "failed")
        }
        for node in self._left - busy:
            pause = pauses.get(node.netns)
            if pause is None or pause.id != node.pause:
                self._left.discard(node)
            elif node not in self._restarting:
                self._restarting.add(node)
                self._events.node_left(node.netns)

    def _collect_garbage(self, pauses: Pauses) -> None:
        """Begin to collect the garbage of nodes that have some, or had a former agent."""
        for netns, plugins in self._plan.nodes.items():
            pause = pauses.get(netns)
            if pause is None:
                continue
            node = Node(netns, pause.id)
            if (netns in self._garbage or (self._is_first_plan and pause.is_adopted)) and (
                node not in self._collecting
            ):
                self._garbage.discard(netns)
                self._collecting[node] = asyncio.Event()
                self._begin(self._collect(node, plugins))
        self._is_first_plan = False

    async def _collect(self, node: Node, plugins: NodePlugins) -> None:
        """Let the plugins of a node free what belongs to no sandbox any more."""
        # A sandbox whose DEL has failed is still known at this point; it is what DEL is for.
        valid = tuple(
            each.id
            for each in self._sandboxes.values()
            if each.node == node and each.phase != "detached"
        )
        answer = await self._node_agents.client(node.netns).call(
            CollectGarbage(node, plugins, valid)
        )
        self._collecting.pop(node).set()
        if isinstance(answer, PluginsFailed | RequestFailed):
            log(f"{node.netns}: garbage of CNI plugins: {_message(answer)}")
            asyncio.get_running_loop().call_later(MAX_RETRY_S, self._repeat_collection, node.netns)

    def _repeat_collection(self, netns: str) -> None:
        self._garbage.add(netns)
        self._events.collection_due()

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            exit_on_failure(task)


def sandbox_id(uid: str, pause: ProcessId, node: ProcessId) -> str:
    """Return the identifier of a sandbox on a node, in the form of container runtimes.

    It is another one when the node has restarted, because the links to the node are gone then.
    """
    text = f"{uid} {pause.pid} {pause.start} {node.pid} {node.start}"
    return hashlib.sha256(text.encode()).hexdigest()


def _facts(sandbox: _Sandbox) -> PodSandbox:
    """Return what the plugins get to know about a sandbox."""
    return structs.replace(
        sandbox.request.sandbox, container_id=sandbox.id, netns=netns_path(sandbox.pause)
    )


def _message(failure: PluginsFailed | RequestFailed) -> str:
    return failure.message if isinstance(failure, PluginsFailed) else failure.error
