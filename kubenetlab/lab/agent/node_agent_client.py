"""The agent's hand for rules: what each node's tables hold, and when somebody else touched them.

Every transaction raises the generation number of a namespace's ruleset by one. When it is not what our last one left, somebody else
has been there, and our tables are made anew. What differs is found when `diff` asks for it: repairs do not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kubenetlab.errors import refusal
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import (
    Name,
    RuleObject,
    Transaction,
    dialect,
    digest,
    names,
    steps,
)
from kubenetlab.kernel.files import replace_file
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.node_agent_connections import NodeAgentConnections
from kubenetlab.lab.agent.rule_differences import ComparedNamespace, rule_differences
from kubenetlab.lab.log import log
from kubenetlab.lab.transport.batcher import Batcher
from kubenetlab.lab.transport.frames import Message
from kubenetlab.lab.transport.rpc import RpcClient


class RulesetCheckpoint(Struct, frozen=True):
    """What a transaction of ours left in a node's namespace."""

    generation: int
    digest: str
    """Of the objects it was made of."""
    names: dict[str, tuple[Name, ...]]
    """Dialect → what of the namespace is its own."""


class RefusedRules(NamedTuple):
    """What was said of a node's rules, in which dialect; in none where nobody came to loading them."""

    dialect: str
    said: str


class _Load(NamedTuple):
    """Words for a node, which its pause process identifies, and where the answer goes."""

    netns: str
    node: ProcessId
    steps: tuple[Transaction, ...]
    answer: asyncio.Future[Message]


class NodeAgentClient:
    """The node agents, as the agent uses them. A node is always the same one's."""

    def __init__(
        self,
        node_agents: NodeAgentConnections,
        directory: Path,
        on_touched: Callable[[str], None],
        on_sync: Callable[[str, Message], None],
    ) -> None:
        """Begin without checkpoints.

        on_touched: called with a namespace in which another process has changed rules.
        on_sync:    called with a namespace and the node agent's answer when a transaction has ended.
        """
        self._node_agents = node_agents
        self._on_touched = on_touched
        self._on_sync = on_sync
        self._marks_path = directory / "rules.json"
        self._marks: dict[str, RulesetCheckpoint] = {}
        """Node's namespace → what our last transaction left there."""
        self._dubious: set[str] = set()
        """Where the tables have to be made anew, whatever they hold."""
        self._loads = Batcher(self._load)
        self._telling: set[asyncio.Task[None]] = set()

    def load_marks(self) -> None:
        """What the former agent wrote down."""
        try:
            self._marks = msgspec.json.decode(
                self._marks_path.read_bytes(), type=dict[str, RulesetCheckpoint]
            )
        except (OSError, msgspec.DecodeError):
            self._marks = {}

    async def is_as_left(self, netns: str, node: ProcessId, objects: Sequence[RuleObject]) -> bool:
        """True when the namespace holds what our last transaction left, and that was made of these objects."""
        answer = await self._hand(netns).call(do="generation", netns=netns, node=node)
        mark = self._marks.get(netns)
        if (
            mark is not None
            and (mark.generation, mark.digest) == (answer.get("generation"), digest(objects))
            and not _is_deaf(mark, answer)
        ):
            return True
        self._dubious.add(netns)
        return False

    async def touched(self, nodes: Mapping[str, ProcessId]) -> list[str]:
        """In which namespaces somebody else has changed rules since our last transaction."""
        asked = [(netns, nodes[netns]) for netns in self._marks if netns in nodes]
        answers = await asyncio.gather(
            *(
                self._hand(netns).call(do="generation", netns=netns, node=node)
                for netns, node in asked
            )
        )
        return [
            netns
            for (netns, _), answer in zip(asked, answers, strict=True)
            if "generation" in answer
            and (
                answer["generation"] != self._marks[netns].generation
                or _is_deaf(self._marks[netns], answer)
            )
        ]

    def mark_stale(self, netns: str) -> None:
        """Somebody else has changed rules there: the tables are made anew, whatever they hold."""
        self._dubious.add(netns)

    async def apply(
        self, netns: str, node: ProcessId, old: Sequence[RuleObject], new: Sequence[RuleObject]
    ) -> RefusedRules | None:
        """From `old` to `new`, dialect by dialect; None when it is in force."""
        former = self._marks[netns].names if netns in self._marks else {}
        wanted = steps(old, new, former, anew=netns in self._dubious)
        if not wanted:
            return None
        load = _Load(netns, node, wanted, asyncio.get_running_loop().create_future())
        self._loads.add(load)
        try:
            answer = await load.answer
        except ConnectionError:
            answer = {"error": f"the {self._hand(netns).name} died"}
        self._on_sync(netns, answer)
        if "error" in answer:
            self._dubious.add(netns)
            return RefusedRules(answer.get("dialect", ""), str(answer["error"]))
        self._dubious.discard(netns)
        self._marks[netns] = RulesetCheckpoint(answer["generation"], digest(new), names(new))
        return None

    def _load(self, loads: Sequence[_Load]) -> None:
        """What a node agent has to load on several nodes alike is said once."""
        alike: dict[tuple[RpcClient, tuple[Transaction, ...]], list[_Load]] = {}
        for load in loads:
            alike.setdefault((self._hand(load.netns), load.steps), []).append(load)
        for (hand, words), several in alike.items():
            request = {"do": "rules", "steps": [msgspec.to_builtins(step) for step in words]}
            each = {load.answer: {"netns": load.netns, "node": load.node} for load in several}
            self._telling.add(
                task := asyncio.get_running_loop().create_task(_tell(hand, request, each))
            )
            task.add_done_callback(self._telling.discard)

    def record_edit(self, netns: str) -> None:
        """A node agent has noticed a transaction that is not ours."""
        if netns in self._marks:
            self._on_touched(netns)

    def forget(self, netns: str) -> None:
        """A node is gone."""
        self._marks.pop(netns, None)
        self._dubious.discard(netns)

    def save_marks(self) -> None:
        """For the next agent. Where it finds none, or old ones, it makes the tables anew: that they cannot be written stops nothing."""
        try:
            replace_file(self._marks_path, msgspec.json.encode(self._marks))
        except OSError as error:
            log(f"the marks of the rules are not written: {refusal(error)}")

    async def differences(
        self, desired: Mapping[str, Sequence[RuleObject]], nodes: Mapping[str, ProcessId]
    ) -> dict[str, list[Difference]]:
        """Compare the rules of namespaces with the desired ones, and with what an earlier mode has left there.

        Where the desired rules are those that were loaded last, a difference was made by others. It is repaired like any such
        change, or kept where that is asked for: edits of maps and sets are without a new generation, so it may not be known yet.
        """
        marks = self._marks
        subjects = [
            ComparedNamespace(
                netns, nodes[netns], rules, marks[netns].names if netns in marks else {}
            )
            for netns, rules in desired.items()
            if netns in nodes
        ]
        found = await rule_differences(
            subjects, lambda node, /, **request: self._hand(node).call(**request)
        )
        for netns, differences in found.items():
            is_edited = any(difference.action != "unknown" for difference in differences)
            if (
                is_edited
                and netns in marks
                and netns not in self._dubious
                and marks[netns].digest == digest(desired[netns])
            ):
                self._on_touched(netns)
        return found

    async def edits(
        self, netns: str, node: ProcessId, loaded: Sequence[RuleObject]
    ) -> list[Difference]:
        """Return what others have changed in the rules that were loaded last; nothing where they are repaired already."""
        return (
            (await self.differences({netns: loaded}, {netns: node}))[netns]
            if netns in self._dubious
            else []
        )

    async def listings(
        self, netns: str, node: ProcessId, dialects: Iterable[str]
    ) -> dict[str, str]:
        """Return the rules of a namespace by backend, as the backend's own program prints them; an error in place of a listing."""
        answers = {
            name: await self._hand(netns).call(do="text", netns=netns, node=node, dialect=name)
            for name in dialects
        }
        return {
            name: str(answer.get("text", answer.get("error", ""))).rstrip()
            for name, answer in answers.items()
        }

    def _hand(self, netns: str) -> RpcClient:
        return self._node_agents.client(netns)


async def _tell(
    hand: RpcClient, request: Message, each: Mapping[asyncio.Future[Message], Message]
) -> None:
    """Has each answered, one way or the other: whatever goes wrong is raised where somebody waits, and nobody waits for ever."""
    try:
        await hand.call_each(request, each)
    except Exception as error:
        for answer in each:
            if not answer.done():
                answer.set_exception(error)


def _is_deaf(mark: RulesetCheckpoint, answer: Message) -> bool:
    """True when nobody listens where a dialect has to be listened for: the node agent is a new one."""
    return any(
        getattr(dialect(name), "IS_WATCHED", False) and name not in answer["open"]
        for name in mark.names
    )
