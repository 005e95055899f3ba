"""Taking over a lab from a dead agent: read what it left, record what happened meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import contents_of
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.agent.builder import rules_of
from kubenetlab.lab.agent.process_events import forget_sandbox
from kubenetlab.lab.log import log

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


async def take_over(agent: Agent) -> None:
    """Find the sandboxes, rules and programs of a former agent, and record changes since then."""
    async with agent.kernel_lock:
        await _observe(agent)
    _record_changes(agent)
    log(f"a new agent took over {len(agent.observed)} namespaces")


async def _observe(agent: Agent) -> None:
    """Read all namespaces, and find out which rules and programs are the desired ones."""
    agent.desired_state.update(agent.cluster)
    desired, pauses = agent.desired, agent.sandboxes.pauses
    for netns, pause in pauses.items():
        agent.exit_watcher.watch(netns, pause)
        # A namespace that is not desired is only removed: its other objects need not be known.
        agent.observed[netns] = (
            contents_of([Sandbox(netns, "?")]) if netns not in desired.namespaces else {}
        )
    agent.observed_state.start_monitoring()
    agent.observed_state.read(desired, list(agent.observed))
    agent.rules.checkpoints.load()
    await agent.runtime.adopt()
    await agent.daemons.refresh()
    agent.kube_proxies.adopt(agent.cluster)
    for netns in list(agent.observed):
        rules = rules_of(desired[netns].values())
        is_current = False
        if rules and netns in pauses:
            is_current = await agent.rules.is_unchanged(netns, pauses[netns].id, rules)
        runs = [
            obj
            for obj in desired[netns].values()
            if isinstance(obj, ProgramRun)
            and agent.runtime.running.get((netns, obj.container)) == obj.attempt
        ]
        if netns in agent.observed:  # its pause process has not exited meanwhile
            agent.observed[netns] = contents_of(
                (
                    *agent.observed[netns].values(),
                    *(rules if is_current else ()),
                    *runs,
                    *agent.daemons.observed(netns, desired[netns], agent.sandboxes.id(netns)),
                )
            )
            agent.observed_state.watch_files(netns, agent.observed[netns])


def _record_changes(agent: Agent) -> None:
    """Record sandboxes that the former agent did not store, and those that have died since."""
    agent.builder.links.adopt(agent.sandboxes.pids)
    for netns, recorded in list(status_reports.recorded_sandboxes(agent.cluster)):
        process = agent.sandboxes.id(netns)
        if recorded and process is None:
            forget_sandbox(agent, netns)
        elif process is not None and process.pid != recorded:
            agent.apply_changes(status_reports.sandbox_made(agent.cluster, netns, process.pid))
