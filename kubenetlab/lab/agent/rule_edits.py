"""Changes that other processes make to the rules of nodes: log them, then repair or keep them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.builder import rules_of
from kubenetlab.lab.agent.clients.node_agent_client import NodeAgentClient
from kubenetlab.lab.agent.observed_state import ObservedState
from kubenetlab.lab.log import log

REPAIR_AFTER_S: Final = 1.0
"""Delay before a change made by another process is repaired, in seconds: its author can see it."""
MAX_LOGGED: Final = 20
"""Maximum number of differences that are logged for one edit of a namespace's rules."""


class RuleEdits:
    """Rules that other processes have changed. A repair reloads all rules of the namespace."""

    def __init__(
        self,
        rules: NodeAgentClient,
        observed_state: ObservedState,
        sandboxes: Sandboxes,
        kernel_lock: asyncio.Lock,
        on_repair: Callable[[], None],
    ) -> None:
        """Begin without edits.

        kernel_lock: held while an edit is compared with the rules that were loaded.
        on_repair:   called when rules have been marked to be loaded again.
        """
        self._rules = rules
        self._observed_state = observed_state
        self._sandboxes = sandboxes
        self._kernel_lock = kernel_lock
        self._on_repair = on_repair
        self._kept: set[str] = set()
        """Namespaces whose edits stay until the next `check` (drift: keep)."""
        self._logging: set[asyncio.Task[None]] = set()
        """Running tasks, referenced so that they are not garbage-collected."""

    def record(self, netns: str) -> None:
        """Record an edit: mark the rules of the namespace to be loaded again, or keep the edit."""
        if self._observed_state.keeps_drift:
            self._observed_state.record_kept_drift(netns)
            self._kept.add(netns)
            return
        loaded = rules_of(self._observed_state.contents.get(netns, {}).values())
        self._mark_stale(netns)
        if loaded:
            task = asyncio.get_running_loop().create_task(self._log(netns, loaded))
            self._logging.add(task)
            task.add_done_callback(self._logging.discard)
        self._on_repair()

    async def check(self, nodes: Mapping[str, ProcessId]) -> None:
        """Mark all rules that were edited since they were loaded, including kept edits."""
        edited = {*await self._rules.edited_namespaces(nodes), *self._kept}
        for netns in edited & self._observed_state.contents.keys():
            self._mark_stale(netns)
        self._kept.clear()

    def _mark_stale(self, netns: str) -> None:
        log(f"{netns}: another process changed the rules; they are loaded again")
        self._rules.mark_stale(netns)
        loaded = rules_of(self._observed_state.contents.get(netns, {}).values())
        self._observed_state.record_applied(netns, removed=loaded)

    async def _log(self, netns: str, loaded: Sequence[RuleObject]) -> None:
        """Log the differences, unless the comparison takes so long that it delays the repair."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REPAIR_AFTER_S), self._kernel_lock:
                node = self._sandboxes.id(netns)
                edits = await self._rules.edits(netns, node, loaded) if node is not None else []
                for edit in edits[:MAX_LOGGED]:
                    log(f"{netns}: another process changed the rules: {edit.line}")
                if (count := len(edits) - MAX_LOGGED) > 0:
                    log(f"{netns}: another process changed the rules: {count} more differences")
