"""Comparison of rules by means of a reference namespace."""

from __future__ import annotations

import asyncio
import os

import msgspec

from kubenetlab.hoststate.rules.nftables import rule
from kubenetlab.hoststate.rules.nftables.chain_commands import AddChain, AddRules, AddTable
from kubenetlab.hoststate.rules.nftables.statements import accept
from kubenetlab.hoststate.rules.nftables.transactions import encode_transaction
from kubenetlab.hoststate.rules.transactions import Transaction
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.comparison import Compared, Names, compare
from kubenetlab.lab.nodeagent.forked import in_child

NAMES = {"nftables": [("ip", "t")]}


def compare_in_child(
    text: str, nodes: dict[str, ProcessId], names: Names = NAMES
) -> dict[str, Compared]:
    data = asyncio.run(
        in_child(
            lambda: msgspec.json.encode(compare(nodes, [Transaction("nftables", text)], names))
        )
    )
    return msgspec.json.decode(data, type=dict[str, Compared])


def test_only_the_reference_namespace_is_written() -> None:
    """The compared namespace keeps its rules and its generation."""
    loader = nftables.open_loader()
    loader.run_commands("add table ip t\nadd chain ip t mine\n")
    generations = nftables.Generations()
    before = generations.read()
    results = compare_in_child(
        encode_transaction([AddTable("ip", "t"), AddChain("ip", "t", "ours")]),
        {"a": ProcessId.of(os.getpid()), "b": ProcessId.of(os.getpid())},
    )
    lines = ["+ nft chain ip t ours: 0 rules", "- nft chain ip t mine: 0 rules"]
    assert {
        name: [difference.line for difference in result.differences]
        for name, result in results.items()
    } == {"a": lines, "b": lines}
    assert generations.read() == before
    assert "ours" not in loader.text()


def test_rules_that_the_kernel_refuses_are_an_error() -> None:
    """A backend that cannot be compared does not count as equal."""
    (result,) = compare_in_child(
        encode_transaction([AddRules("ip", "nosuch", "chain", (rule(accept),))]),
        {"a": ProcessId.of(os.getpid())},
    ).values()
    assert result.differences == ()
    assert result.errors["nftables"].startswith(
        "the desired rules cannot be loaded for comparison: "
    )


def test_an_exited_node_is_an_error_of_that_node_only() -> None:
    """The other node is compared."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    exited = ProcessId.of(pid)
    os.waitpid(pid, 0)
    results = compare_in_child(
        encode_transaction([AddTable("ip", "t")]),
        {"gone": exited, "current": ProcessId.of(os.getpid())},
    )
    assert results["gone"].errors["nftables"].startswith("its namespace is gone: ")
    assert [difference.line for difference in results["current"].differences] == [
        "+ nft table ip t"
    ]
