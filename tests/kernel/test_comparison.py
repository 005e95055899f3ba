"""Comparison by a reference namespace: what it leaves alone, and what it says when rules cannot be compared."""

from __future__ import annotations

import asyncio
import os

import msgspec

from kubenetlab.hoststate.rules.rulesets import Transaction
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.comparison import Compared, Names, compare
from kubenetlab.lab.nodeagent.forked import in_child

NAMES = {"nftables": [("ip", "t")]}


def compared(text: str, nodes: dict[str, ProcessId], names: Names = NAMES) -> dict[str, Compared]:
    data = asyncio.run(
        in_child(
            lambda: msgspec.json.encode(compare(nodes, [Transaction("nftables", text)], names))
        )
    )
    return msgspec.json.decode(data, type=dict[str, Compared])


def test_only_the_reference_namespace_is_written() -> None:
    """The compared namespace keeps its rules and its generation."""
    here = nftables.open_here()
    here.run("add table ip t\nadd chain ip t mine\n")
    generations = nftables.Generations()
    before = generations.read()
    found = compared(
        "add table ip t\nadd chain ip t ours\n",
        {"a": ProcessId.of(os.getpid()), "b": ProcessId.of(os.getpid())},
    )
    lines = ["+ nft chain ip t ours: 0 rules", "- nft chain ip t mine: 0 rules"]
    assert {
        name: [difference.line for difference in one.differences] for name, one in found.items()
    } == {"a": lines, "b": lines}
    assert generations.read() == before
    assert "ours" not in here.text()


def test_rules_that_the_kernel_refuses_are_an_error() -> None:
    """The dialect cannot be compared, and that is no equality."""
    (found,) = compared(
        "add rule ip nosuch chain accept\n", {"a": ProcessId.of(os.getpid())}
    ).values()
    assert found.differences == ()
    assert found.errors["nftables"].startswith(
        "the desired rules cannot be loaded for comparison: "
    )


def test_a_namespace_that_is_gone_is_an_error_of_that_node_alone() -> None:
    """A process of that number has ended; the other node is compared."""
    gone = os.fork()
    if not gone:
        os._exit(0)
    former = ProcessId.of(gone)
    os.waitpid(gone, 0)
    found = compared("add table ip t\n", {"gone": former, "here": ProcessId.of(os.getpid())})
    assert found["gone"].errors["nftables"].startswith("its namespace is gone: ")
    assert [difference.line for difference in found["here"].differences] == ["+ nft table ip t"]
