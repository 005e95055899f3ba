"""Periodic STATUS of the nodes' CNI plugins, as the kubelet asks the container runtime for it.

A node whose plugins answer with an error is NotReady, and none of its pods is attached. STATUS
exists since version 1.1.0 of the specification; plugins of older lists count as ready.
Source: k8s.io/kubernetes pkg/kubelet/kubelet.go (updateRuntimeUp, every 5 seconds, and
runtimeState.networkErrors); containerd internal/cri/server/status.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from kubenetlab.cni.calls import NodePlugins
from kubenetlab.lab.agent.clients.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.log import log
from kubenetlab.lab.messages.node_agent import AskStatus, Node, PluginsFailed
from kubenetlab.lab.transport.protocol import RequestFailed
from kubenetlab.lab.transport.rpc import exit_on_failure

PERIOD_S: Final = 5.0
"""Time between two calls of a node's plugins, in seconds: that of the kubelet."""
FAILING_PERIOD_S: Final = 1.0
"""The same while the plugins answer with an error."""


class _PolledNode(Struct, eq=False):
    plugins: NodePlugins
    is_ready: asyncio.Event
    task: asyncio.Task[None] | None = None
    error: str | None = None
    """Latest error, empty for success; None before the first answer."""


class NetworkStatus:
    """Asks the plugins of nodes for their status until the nodes are gone."""

    def __init__(
        self, node_agents: NodeAgentConnections, on_change: Callable[[str, str], None]
    ) -> None:
        """Begin without a node.

        on_change: called with the namespace of a node and the error of its plugins, or an empty
            text; with the first answer, and with each other one after that.
        """
        self._node_agents = node_agents
        self._on_change = on_change
        self._nodes: dict[Node, _PolledNode] = {}

    def follow(self, nodes: Mapping[Node, NodePlugins]) -> None:
        """Ask the plugins of these nodes from now on, and no others."""
        for node in [
            node for node, polled in self._nodes.items() if nodes.get(node) is not polled.plugins
        ]:
            polled = self._nodes.pop(node)
            polled.is_ready.set()  # those who wait see for themselves that the node is gone
            if polled.task is not None:
                polled.task.cancel()
        for node, plugins in nodes.items():
            if node not in self._nodes:
                self._begin(node, plugins)

    def is_ready(self, node: Node) -> bool:
        """Return True if the plugins of a node can attach pods."""
        return node not in self._nodes or self._nodes[node].is_ready.is_set()

    async def wait_until_ready(self, node: Node) -> None:
        """Return when the plugins of a node can attach pods, or when the node is gone."""
        if node in self._nodes:
            await self._nodes[node].is_ready.wait()

    def _begin(self, node: Node, plugins: NodePlugins) -> None:
        polled = self._nodes[node] = _PolledNode(plugins, asyncio.Event())
        if not plugins.have_status:
            polled.is_ready.set()
            return
        polled.task = asyncio.get_running_loop().create_task(self._poll(node, polled))
        polled.task.add_done_callback(_ended)

    async def _poll(self, node: Node, polled: _PolledNode) -> None:
        while True:
            answer = await self._node_agents.client(node.netns).call(
                AskStatus(node, polled.plugins)
            )
            if not isinstance(answer, RequestFailed):  # else the node agent or the node has ended
                self._record(node, polled, answer)
            await asyncio.sleep(FAILING_PERIOD_S if polled.error else PERIOD_S)

    def _record(self, node: Node, polled: _PolledNode, answer: object) -> None:
        error = answer.message if isinstance(answer, PluginsFailed) else ""
        if error == polled.error:
            return
        if error or polled.error:
            log(f"{node.netns}: STATUS of CNI plugins: {error or 'ready'}")
        polled.error = error
        if error:
            polled.is_ready.clear()
        else:
            polled.is_ready.set()
        self._on_change(node.netns, error)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        exit_on_failure(task)
