"""Checkpoints of rules: what an agent finds that takes over when its predecessor died."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kubenetlab.hoststate.rules.iptables import IptablesChain
from kubenetlab.hoststate.rules.rulesets import DiffCache, digest
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.node_agent_client import LoadReply, NodeAgentClient
from kubenetlab.lab.agent.clients.ruleset_checkpoints import RulesetCheckpoints
from kubenetlab.lab.messages.node_agent import LoadRules, RulesLoaded, RulesRefused
from kubenetlab.lab.transport.protocol import RequestFailed

NODE = "node/a"
OLD = IptablesChain(NODE, "ip", "filter", "OLD-INPUT", ("-j ACCEPT",))
NEW = IptablesChain(NODE, "ip", "filter", "NEW-INPUT", ("-j DROP",))


Found = tuple[str, dict[str, list[tuple[str, str]]]]
"""Digest and names of a checkpoint."""


class FakeNodeAgent:
    """A node agent that answers with `reply`, and reads what its client has written before."""

    name = "node agent 0"

    def __init__(self, directory: Path) -> None:
        self.file = directory / "rules.json"
        self.found: list[Found] = []
        """What the file says of the node at each request."""
        self.reply: LoadReply = RulesLoaded(7, 0.1)

    def client(self, netns: str) -> FakeNodeAgent:
        return self

    async def call_each(
        self, request: LoadRules, replies: Sequence[asyncio.Future[LoadReply]]
    ) -> None:
        self.found.append(written(self.file))
        for reply in replies:
            reply.set_result(self.reply)


def written(file: Path) -> Found:
    """Return what the next agent reads of the node."""
    checkpoints = RulesetCheckpoints(file)
    checkpoints.load()
    checkpoint = checkpoints[NODE]
    return checkpoint.digest, {name: sorted(of) for name, of in checkpoint.names.items()}


def load(rules: NodeAgentClient, *chains: IptablesChain) -> None:
    """Load chains in place of all others, as one change of a lab does, and save checkpoints."""
    rules.mark_stale(NODE)
    asyncio.run(rules.apply(NODE, ProcessId(1, 1), [], chains, DiffCache()))
    rules.checkpoints.save()


def client_of(node_agent: FakeNodeAgent) -> NodeAgentClient:
    """Return the client of an agent that starts."""
    client = NodeAgentClient(
        cast("Any", node_agent), node_agent.file.parent, lambda netns: None, lambda *of: None
    )
    client.checkpoints.load()
    return client


def test_rules_are_unknown_while_they_change(tmp_path: Path) -> None:
    """The file says so before a node agent is asked, with the names of old rules and new ones."""
    node_agent = FakeNodeAgent(tmp_path)
    rules = client_of(node_agent)
    load(rules, OLD)
    assert written(node_agent.file) == (digest([OLD]), {"iptables": [("ip", "OLD-")]})
    load(rules, NEW)
    assert node_agent.found == [
        ("", {"iptables": [("ip", "OLD-")]}),
        ("", {"iptables": [("ip", "NEW-"), ("ip", "OLD-")]}),
    ]
    assert written(node_agent.file) == (digest([NEW]), {"iptables": [("ip", "NEW-")]})


@pytest.mark.parametrize(
    "reply", [RulesRefused("a rule is wrong", "iptables"), RequestFailed("the node agent died")]
)
def test_refused_rules_stay_unknown(tmp_path: Path, reply: LoadReply) -> None:
    """Some of them may be in the kernel: the next agent and the next change know their names."""
    node_agent = FakeNodeAgent(tmp_path)
    rules = client_of(node_agent)
    load(rules, OLD)
    node_agent.reply = reply
    load(rules, NEW)
    both = {"iptables": [("ip", "NEW-"), ("ip", "OLD-")]}
    assert written(node_agent.file) == ("", both)
    node_agent.reply = RulesLoaded(8, 0.1)
    load(client_of(node_agent), OLD)
    assert node_agent.found[-1] == ("", both)
    assert written(node_agent.file) == (digest([OLD]), {"iptables": [("ip", "OLD-")]})


def test_a_checkpoint_that_cannot_be_written_is_removed(tmp_path: Path) -> None:
    """The next agent would take the rules for those of the checkpoint before."""
    node_agent = FakeNodeAgent(tmp_path)
    rules = client_of(node_agent)
    load(rules, OLD)
    (tmp_path / "rules.new").mkdir()
    rules.checkpoints.begin({NODE: [NEW]})
    assert not node_agent.file.exists()
