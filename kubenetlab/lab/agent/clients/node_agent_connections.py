"""Connections to the node agents, shared by the clients for rules and for probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

from kubenetlab.lab import rundir
from kubenetlab.lab.messages.node_agent import NodeAgentEvent
from kubenetlab.lab.transport.protocol import decoder_of
from kubenetlab.lab.transport.rpc import RpcClient


class NodeAgentConnections:
    """One RPC client for each node agent of the lab."""

    def __init__(
        self,
        directory: Path,
        node_agents: int,
        on_event: Callable[[NodeAgentEvent], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Connect to the node agents.

        node_agents:  number of node agents.
        on_event:     called with each event that a node agent sends.
        on_reconnect: called when a node agent was replaced by a new one, which has no probes.
        """
        self._clients = [
            RpcClient[NodeAgentEvent](
                f"node agent {number}",
                str(directory / rundir.node_agent_socket(number)),
                decoder_of(NodeAgentEvent),
                on_event,
                on_reconnect,
            )
            for number in range(node_agents)
        ]

    def __iter__(self) -> Iterator[RpcClient[NodeAgentEvent]]:
        return iter(self._clients)

    def client(self, node_netns: str) -> RpcClient[NodeAgentEvent]:
        """Return the client for the node agent that serves a node.

        The choice depends on the name alone, so that a new agent of the lab finds the node agent
        that holds the node's state.
        """
        return self._clients[crc32(node_netns.encode()) % len(self._clients)]
