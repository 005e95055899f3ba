"""Records of applied changes in the agent: observed state, failures and changes of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenetlab.errors import ApplyError
from kubenetlab.hoststate.diff import Changes
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.agent.builder import Refused
from kubenetlab.lab.agent.error_report import condense
from kubenetlab.lab.log import log

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


def record_sandboxes(agent: Agent, changes: Changes) -> None:
    """Store the pause processes of new sandboxes."""
    pauses = agent.sandboxes.pauses.copy()
    agent.apply_changes(
        change
        for netns in (entry.netns for entry in changes.namespaces if entry.is_new)
        if netns in pauses
        for change in status_reports.sandbox_made(agent.cluster, netns, pauses[netns].pid)
    )


def record_applied(agent: Agent, changes: Changes, refused: Refused, *, is_awaited: bool) -> None:
    """Record what exists: the plan where everything succeeded; read other namespaces.

    is_awaited: True while `up` is waiting. Raises ApplyError then if anything was refused.
    """
    for entry in changes.namespaces:
        agent.failures.pop(entry.netns, None)
        if entry.netns in refused or entry.netns not in agent.sandboxes.pauses:
            continue
        agent.observed[entry.netns] = agent.desired[entry.netns]
    for netns, texts in refused.items():
        agent.failures[netns] = "\n".join(texts)
        agent.apply_changes(status_reports.sandbox_failed(agent.cluster, netns, texts[0]))
        for text in texts:
            log(text)
    if refused:
        if is_awaited:
            raise ApplyError(condense(text for texts in refused.values() for text in texts))
        agent.observed_state.read(agent.desired, refused)
