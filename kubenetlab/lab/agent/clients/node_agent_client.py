"""Client of the node agents for rules: load them, and detect changes by other processes.

Every transaction increments the generation number of a namespace's ruleset. If the number is not
the one after our last transaction, another process has changed rules, and ours are loaded again.
The exact difference is computed only for `diff` and for the log: a repair does not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import (
    DiffCache,
    RuleObject,
    digest,
    rule_backend,
)
from kubenetlab.hoststate.rules.transactions import Transaction, steps
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.agent.clients.rule_differences import ComparedNamespace, rule_differences
from kubenetlab.lab.agent.clients.ruleset_checkpoints import (
    RulesetCheckpoint,
    RulesetCheckpoints,
)
from kubenetlab.lab.messages.node_agent import (
    Generation,
    Generations,
    LoadRules,
    Node,
    NodeAgentEvent,
    PrintRules,
    ReadGenerations,
    RulesLoaded,
    RulesRefused,
    RulesText,
)
from kubenetlab.lab.transport.batcher import Batcher
from kubenetlab.lab.transport.protocol import RequestFailed
from kubenetlab.lab.transport.rpc import RpcClient


class RefusedRules(NamedTuple):
    """Error of a transaction."""

    backend: str
    """Rule backend that was refused; "" if the transaction was not begun."""
    error: str


LoadReply = RulesLoaded | RulesRefused | RequestFailed
"""Result of the transactions on one node."""


class _Load(NamedTuple):
    """Transactions to run on one node."""

    node: Node
    transactions: tuple[Transaction, ...]
    objects: Sequence[RuleObject]
    """Rules of the node afterwards."""
    reply: asyncio.Future[LoadReply]


class NodeAgentClient:
    """The rules in the namespaces of nodes."""

    def __init__(
        self,
        node_agents: NodeAgentConnections,
        directory: Path,
        on_edit: Callable[[str], None],
        on_sync: Callable[[str, LoadReply], None],
    ) -> None:
        """Begin without checkpoints.

        directory: run directory of the lab.
        on_edit:   called with a namespace in which another process has changed rules.
        on_sync:   called with a namespace and the node agent's reply after each transaction.
        """
        self._node_agents = node_agents
        self._on_edit = on_edit
        self._on_sync = on_sync
        self.checkpoints = RulesetCheckpoints(directory / "rules.json")
        self._stale: set[str] = set()
        """Namespaces whose rules are loaded completely by the next transaction."""
        self._loads = Batcher(self._send_loads)
        self._requests: set[asyncio.Task[None]] = set()
        """Running tasks, referenced so that they are not garbage-collected."""

    async def is_unchanged(
        self, netns: str, node: ProcessId, objects: Sequence[RuleObject]
    ) -> bool:
        """Return True if the rules are those of our last transaction, made of these objects.

        Otherwise the next transaction loads them completely.
        """
        state = (await self._generations({netns: node})).get(netns)
        checkpoint = self.checkpoints.get(netns)
        if (
            checkpoint is not None
            and state is not None
            and (checkpoint.generation, checkpoint.digest) == (state.generation, digest(objects))
            and not _is_unwatched(checkpoint, state)
        ):
            return True
        self._stale.add(netns)
        return False

    async def edited_namespaces(self, nodes: Mapping[str, ProcessId]) -> list[str]:
        """Return the namespaces in which another process has changed rules.

        nodes: pause process of each node, by its namespace.
        """
        states = await self._generations(
            {netns: nodes[netns] for netns in self.checkpoints if netns in nodes}
        )
        return [
            netns
            for netns, state in states.items()
            if (checkpoint := self.checkpoints.get(netns)) is not None
            and (state.generation != checkpoint.generation or _is_unwatched(checkpoint, state))
        ]

    async def _generations(self, nodes: Mapping[str, ProcessId]) -> dict[str, Generation]:
        """Return the states of the rules in namespaces of nodes, as far as they can be read."""
        groups: dict[RpcClient[NodeAgentEvent], list[Node]] = {}
        for netns, node in nodes.items():
            groups.setdefault(self._client(netns), []).append(Node(netns, node))
        replies = await asyncio.gather(
            *(client.call(ReadGenerations(tuple(group))) for client, group in groups.items())
        )
        return {
            netns: state
            for reply in replies
            if isinstance(reply, Generations)
            for netns, state in reply.by_netns.items()
        }

    def mark_stale(self, netns: str) -> None:
        """Have the next transaction load all rules of a namespace, whatever it holds."""
        self._stale.add(netns)

    def record_edit(self, netns: str) -> None:
        """Pass on a node agent's event that another process has changed rules."""
        if netns in self.checkpoints:
            self._on_edit(netns)

    def forget(self, netns: str) -> None:
        """Drop what is known of a node that is gone."""
        self.checkpoints.forget(netns)
        self._stale.discard(netns)

    async def apply(
        self,
        netns: str,
        node: ProcessId,
        old: Sequence[RuleObject],
        new: Sequence[RuleObject],
        cache: DiffCache,
    ) -> RefusedRules | None:
        """Change the rules of a namespace from `old` to `new`; return None when they are in force.

        Each rule backend has a transaction of its own.

        cache: differences of the nodes whose rules change at the same time.
        """
        former = self.checkpoints.owned_names(netns)
        transactions = steps(old, new, former, anew=netns in self._stale, cache=cache)
        if not transactions:
            return None
        future = asyncio.get_running_loop().create_future()
        self._loads.add(_Load(Node(netns, node), transactions, new, future))
        reply: LoadReply
        try:
            reply = await future
        except ConnectionError:
            reply = RequestFailed(f"the {self._client(netns).name} died")
        self._on_sync(netns, reply)
        match reply:
            case RulesLoaded():
                self._stale.discard(netns)
                self.checkpoints.record(netns, reply.generation, new)
                return None
            case RulesRefused():
                self._stale.add(netns)
                return RefusedRules(reply.backend, reply.error)
            case RequestFailed():
                self._stale.add(netns)
                return RefusedRules("", reply.error)

    async def differences(
        self, desired: Mapping[str, Sequence[RuleObject]], nodes: Mapping[str, ProcessId]
    ) -> dict[str, list[Difference]]:
        """Compare the rules of namespaces with the desired ones, and with those of a former mode.

        If the desired rules are the ones that were loaded last, another process has made the
        difference. It is reported to `on_edit`, because changes of IP sets and eBPF maps leave
        the generation number of nftables as it is, and are not noticed otherwise.
        """
        checkpoints = self.checkpoints
        subjects = [
            ComparedNamespace(netns, nodes[netns], rules, checkpoints.owned_names(netns))
            for netns, rules in desired.items()
            if netns in nodes
        ]
        result = await rule_differences(subjects, self._client)
        for netns, differences in result.items():
            is_edited = any(difference.action != "unknown" for difference in differences)
            if (
                is_edited
                and netns in checkpoints
                and netns not in self._stale
                and checkpoints[netns].digest == digest(desired[netns])
            ):
                self._on_edit(netns)
        return result

    async def edits(
        self, netns: str, node: ProcessId, loaded: Sequence[RuleObject]
    ) -> list[Difference]:
        """Return the changes by other processes to the rules that were loaded last.

        Return no changes if they have been repaired already.
        """
        if netns not in self._stale:
            return []
        return (await self.differences({netns: loaded}, {netns: node}))[netns]

    async def listings(
        self, netns: str, node: ProcessId, backends: Iterable[str]
    ) -> dict[str, str]:
        """Return the rules of a namespace by backend, as the backend's own program prints them.

        An error takes the place of a listing.
        """
        replies = {
            name: await self._client(netns).call(PrintRules(Node(netns, node), name))
            for name in backends
        }
        return {
            name: (reply.text if isinstance(reply, RulesText) else reply.error).rstrip()
            for name, reply in replies.items()
        }

    def _client(self, netns: str) -> RpcClient[NodeAgentEvent]:
        return self._node_agents.client(netns)

    def _send_loads(self, loads: Sequence[_Load]) -> None:
        """Send transactions that are equal on several nodes of a node agent in one request."""
        self.checkpoints.begin({load.node.netns: load.objects for load in loads})
        groups: dict[tuple[RpcClient[NodeAgentEvent], tuple[Transaction, ...]], list[_Load]] = {}
        for load in loads:
            groups.setdefault((self._client(load.node.netns), load.transactions), []).append(load)
        for (client, transactions), equal in groups.items():
            request = LoadRules(transactions, tuple(load.node for load in equal))
            replies = [load.reply for load in equal]
            self._requests.add(
                task := asyncio.get_running_loop().create_task(_call_each(client, request, replies))
            )
            task.add_done_callback(self._requests.discard)


async def _call_each(
    client: RpcClient[NodeAgentEvent],
    request: LoadRules,
    replies: Sequence[asyncio.Future[LoadReply]],
) -> None:
    """Send a request; pass an exception to every future that would wait for ever without it."""
    try:
        await client.call_each(request, replies)
    except Exception as error:
        for reply in replies:
            if not reply.done():
                reply.set_exception(error)


def _is_unwatched(checkpoint: RulesetCheckpoint, state: Generation) -> bool:
    """Return True if the node agent does not watch a rule backend that has to be watched.

    A new node agent watches none until it has loaded rules.
    """
    return any(
        getattr(rule_backend(name), "IS_WATCHED", False) and name not in state.backends
        for name in checkpoint.names
    )
