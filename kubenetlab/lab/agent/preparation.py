"""Preparation of the node agents for later changes, in idle time.

A node agent does not import what only later changes of rules need, because `up` would wait for it.
Once the lab has settled, the agent asks for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kubenetlab.lab.agent.clients.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.messages.node_agent import PrepareLoaders
from kubenetlab.observe.settled import has_settled

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

IDLE_S: Final = 1.0
"""Time without a change of the lab, in seconds, after which it counts as idle."""


class NodeAgentPreparation:
    """Waits until the lab is idle and has settled, and has the node agents prepare then."""

    def __init__(self, agent: Agent, node_agents: NodeAgentConnections) -> None:
        """Begin to wait. Call it in a running event loop."""
        self._agent = agent
        self._node_agents = node_agents
        self._task = self._begin()

    def repeat(self) -> None:
        """Wait again, because a node agent has been replaced."""
        self._task.cancel()
        self._task = self._begin()

    def _begin(self) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._prepare())

    async def _prepare(self) -> None:
        await self._wait_until_settled()
        await asyncio.gather(*(client.call(PrepareLoaders()) for client in self._node_agents))

    async def _wait_until_settled(self) -> None:
        """Return when nothing has changed for IDLE_S, and the lab has settled."""
        with self._agent.watchers.subscribe() as changed:
            while True:
                changed.clear()
                try:
                    async with asyncio.timeout(IDLE_S):
                        await changed.wait()
                except TimeoutError:
                    if self._agent.is_idle and has_settled(self._agent.cluster):
                        return
                    await changed.wait()
