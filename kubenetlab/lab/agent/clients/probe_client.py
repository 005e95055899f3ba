"""Client of the node agents for probes: send the probes to run, pass on their results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.log import log
from kubenetlab.lab.messages.node_agent import NodeAgentEvent, ProbeResult, ReplaceProbes
from kubenetlab.lab.transport.protocol import Done, RequestFailed
from kubenetlab.lab.transport.rpc import RpcClient

NodeProbes = tuple[tuple[ProbeSpec, ProcessId], ...]
"""Probes of one sandbox, each with the pause process of the node that runs it."""


class ProbeClient:
    """The probes that the node agents run, by sandbox."""

    def __init__(
        self,
        node_agents: NodeAgentConnections,
        on_results: Callable[[Sequence[ProbeResult]], None],
    ) -> None:
        """Begin without probes.

        on_results: called with the probe results that a node agent has sent in one event.
        """
        self._node_agents = node_agents
        self._on_results = on_results
        self._probes: dict[str, NodeProbes] = {}
        """Sandbox → the probes that the node agents have accepted."""
        self._resets = 0
        """Number of calls of `reset`."""
        self._pending: set[tuple[str, str, str]] = set()
        """Keys of new probes without delay that have no result yet."""
        self._none_pending = asyncio.Event()

    async def replace(
        self, desired: Mapping[str, tuple[ProbeSpec, ...]], nodes: Mapping[str, ProcessId]
    ) -> bool:
        """Have the node agents run these probes, by sandbox, and no others.

        Return False if a node agent did not accept its probes.
        """
        return await self.update({**dict.fromkeys(self._probes, ()), **desired}, nodes)

    async def update(
        self, desired: Mapping[str, tuple[ProbeSpec, ...]], nodes: Mapping[str, ProcessId]
    ) -> bool:
        """Replace the probes of some sandboxes; return False if a node agent did not accept them.

        Concurrent calls for different sandboxes are safe.
        """
        assigned = {
            netns: tuple(
                (spec, nodes[spec.node_netns]) for spec in specs if spec.node_netns in nodes
            )
            for netns, specs in desired.items()
        }
        changed = {
            netns: probes
            for netns, probes in assigned.items()
            if self._probes.get(netns, ()) != probes
        }
        if not changed:
            return True
        self._expect_results(changed)
        resets = self._resets
        replies = await asyncio.gather(
            *(self._send(client, changed, nodes) for client in self._node_agents)
        )
        if errors := [reply.error for reply in replies if isinstance(reply, RequestFailed)]:
            log(f"node agents did not accept probes: {'; '.join(errors)}")
        # A node agent that was replaced while the request was under way has no probes.
        is_accepted = not errors and resets == self._resets
        if is_accepted:
            self._probes = {
                netns: probes for netns, probes in {**self._probes, **changed}.items() if probes
            }
        return is_accepted

    async def take_back(
        self, keys: Collection[tuple[str, str, str]], nodes: Mapping[str, ProcessId]
    ) -> None:
        """Stop some probes; the next `replace` starts them again, if they are still desired."""
        kept = {
            netns: tuple(spec for spec, _ in self._probes[netns] if spec.key not in keys)
            for netns in {netns for netns, _, _ in keys}
            if netns in self._probes
        }
        await self.update(kept, nodes)

    async def wait_for_first_results(self, timeout_s: float) -> None:
        """Return when every new probe without delay has a result, or after `timeout_s` seconds."""
        if self._pending:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._none_pending.wait()
            except TimeoutError:
                self._pending.clear()

    def record_results(self, results: Sequence[ProbeResult]) -> None:
        """Pass on the results of an event."""
        self._pending.difference_update(
            (result.netns, result.container, result.outcome.kind) for result in results
        )
        if not self._pending:
            self._none_pending.set()
        self._on_results(results)

    def reset(self) -> None:
        """Forget which probes were accepted: a node agent has been replaced."""
        self._probes = {}
        self._resets += 1

    def _expect_results(self, changed: Mapping[str, NodeProbes]) -> None:
        """Note which of the changed probes should have a result at once."""
        new = {
            spec.key
            for netns, probes in changed.items()
            for spec, node in probes
            if not spec.delay_s
            and spec.kind in ("startup", "readiness")
            and (spec, node) not in self._probes.get(netns, ())
        }
        self._pending = {key for key in self._pending if changed.get(key[0], True)} | new
        self._none_pending.clear()

    async def _send(
        self,
        client: RpcClient[NodeAgentEvent],
        changed: Mapping[str, NodeProbes],
        nodes: Mapping[str, ProcessId],
    ) -> Done | RequestFailed:
        """Send one node agent its share of the changed probes and return the reply.

        A sandbox whose probes move to another node agent is sent to the former one without them.
        """
        specs: dict[str, list[ProbeSpec]] = {}
        for netns, desired in changed.items():
            for is_desired, probes in ((False, self._probes.get(netns, ())), (True, desired)):
                for spec, _ in probes:
                    if self._node_agents.client(spec.node_netns) is client:
                        specs.setdefault(netns, []).extend([spec] if is_desired else [])
        if not specs:
            return Done()
        return await client.call(
            ReplaceProbes(
                tuple(specs),
                tuple(spec for of_sandbox in specs.values() for spec in of_sandbox),
                {
                    netns: node
                    for netns, node in nodes.items()
                    if self._node_agents.client(netns) is client
                },
            )
        )
