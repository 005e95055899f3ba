"""Reactions of the agent to events of other processes: exits, restarts, reports and edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import linked_namespaces
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.agent.builder import programs_of
from kubenetlab.lab.agent.clients.plugin_client import AttachmentReport
from kubenetlab.lab.log import log
from kubenetlab.lab.messages.app_worker import RunReport
from kubenetlab.lab.messages.node_agent import (
    NodeAgentEvent,
    ProbeResult,
    ProbeResults,
    RulesEdited,
)

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

EXIT_TIMEOUT_S: Final = 0.5
"""Time allowed for a killed pause process to exit, in seconds; it takes a millisecond."""


class ProcessEvents:
    """The callbacks that the agent's clients and watchers are created with."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def node_agent_reported(self, event: NodeAgentEvent) -> None:
        """Pass an event of a node agent to the client that it concerns."""
        match event:
            case ProbeResults():
                self._agent.probes.record_results(event.results)
            case RulesEdited():
                self._agent.rules.record_edit(event.netns)

    def node_agent_replaced(self) -> None:
        """Send a new node agent its probes, and check the rules that its predecessor watched."""
        self._agent.probes.reset()
        self._agent.wake(check=True)

    def rules_edited(self, netns: str) -> None:
        """Repair or keep rules that another process has changed."""
        self._agent.rule_edits.record(netns)

    def probes_reported(self, results: Sequence[ProbeResult]) -> None:
        """Store the results of probes."""
        cluster, skew_s = self._agent.cluster, self._agent.clock.skew_s
        self._agent.apply_changes(status_reports.probe_reports(cluster, results, skew_s))

    def attachments_reported(self, reports: Sequence[AttachmentReport]) -> None:
        """Store the addresses that CNI plugins have assigned to pods, or why they have not."""
        agent = self._agent
        agent.apply_changes(status_reports.attachment_reports(agent.cluster, reports))

    def pod_detached(self) -> None:
        """Remove sandboxes whose CNI plugins have undone their work."""
        self._agent.wake()

    def collection_due(self) -> None:
        """Let the CNI plugins of a node free what removed pods have left there."""
        self._agent.wake()

    def sandbox_orphaned(self, netns: str) -> None:
        """End a sandbox: CNI plugins attach only new ones, and its node has restarted."""
        log(f"{netns}: its node has restarted, so it gets a new sandbox")
        self._agent.sandboxes.kill(netns)

    def node_left(self, netns: str) -> None:
        """Restart a node, as an administrator does who replaces its CNI plugins.

        The next pass must not plan pods on the node that ends.
        """
        log(f"{netns}: it restarts, because its CNI plugins have been replaced")
        sandboxes = self._agent.sandboxes
        if (pause := sandboxes.pauses.get(netns)) is not None:
            sandboxes.kill(netns)
            self._agent.exit_watcher.wait(pause, EXIT_TIMEOUT_S)

    def network_status_changed(self, netns: str, error: str) -> None:
        """Store whether the CNI plugins of a node can attach pods."""
        agent = self._agent
        agent.apply_changes(status_reports.network_status(agent.cluster, netns, error))

    def programs_reported(self, reports: Sequence[RunReport]) -> None:
        """Store the states of containers."""
        cluster, skew_s = self._agent.cluster, self._agent.clock.skew_s
        self._agent.apply_changes(status_reports.program_reports(cluster, reports, skew_s))

    def programs_lost(self, namespaces: Sequence[str]) -> None:
        """Start the built-in programs of a dead app worker again, in its successor."""
        agent = self._agent
        agent.kube_proxies.forget(namespaces)
        for netns in namespaces:
            programs = programs_of(agent.observed.get(netns, {}).values())
            agent.observed_state.record_applied(netns, removed=programs)
        agent.wake()

    def pause_exited(self, netns: str, pause: Pause) -> None:
        """Record the exit of a pause process, once and never as that of its successor."""
        if self._agent.sandboxes.discard(netns, pause):
            forget_sandbox(self._agent, netns)
        if not self._agent.kernel_lock.locked():
            self._agent.exit_watcher.reap()


def forget_sandbox(agent: Agent, netns: str) -> None:
    """Forget a sandbox whose pause process has exited: its namespaces and its links are gone."""
    log(f"{netns}: its pause process died")
    agent.builder.forget(netns)
    is_shared = not netns.startswith("pod/")  # no link is plugged into a pod
    for other, contents in agent.desired.namespaces.items() if is_shared else ():
        if any(obj.peer_end is not None and obj.peer_end[0] == netns for obj in contents.values()):
            agent.observed_state.mark_stale([other])
        if any(isinstance(obj, Sandbox) and obj.shares == netns for obj in contents.values()):
            # A hostNetwork pod would keep the network and the links of the dead node alive.
            agent.sandboxes.kill(other)
    agent.refusals.reset()
    agent.observed_state.mark_stale(linked_namespaces(agent.desired, [netns]))
    agent.apply_changes(status_reports.sandbox_made(agent.cluster, netns, 0))
    agent.wake()
