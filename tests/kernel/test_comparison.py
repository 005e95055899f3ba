"""Comparison in a reference namespace: what it leaves alone, and what it says when the rules cannot be compared."""

from __future__ import annotations

import os

from kubenetlab.hoststate.rules import Step
from kubenetlab.kernel import nftables
from kubenetlab.kernel.comparison import compare
from kubenetlab.kernel.syscalls import open_namespace

NAMES = {"nftables": [("ip", "t")]}


def test_only_the_reference_namespace_is_written() -> None:
    """The compared namespace keeps its rules and its generation; the caller is elsewhere afterwards."""
    here = nftables.open_here()
    here.run("add table ip t\nadd chain ip t mine\n")
    generations = nftables.Generations()
    before = generations.read()
    home = open_namespace("net")
    found = compare(home, [Step("nftables", "add table ip t\nadd chain ip t ours\n")], NAMES)
    assert [difference.line for difference in found.differences] == ["+ nft chain ip t ours: 0 rules", "- nft chain ip t mine: 0 rules"]
    assert generations.read() == before
    assert "ours" not in here.text()
    assert os.readlink("/proc/thread-self/ns/net") != os.readlink(f"/proc/self/fd/{home}")


def test_rules_that_the_kernel_refuses_are_an_error() -> None:
    """The dialect cannot be compared, and that is no equality."""
    found = compare(open_namespace("net"), [Step("nftables", "add rule ip nosuch chain accept\n")], NAMES)
    assert found.differences == ()
    assert found.errors.keys() == {"nftables"}
    assert found.errors["nftables"].startswith("the desired rules cannot be loaded for comparison: ")
