"""Rules of the policy engines: each connection has the verdict of the evaluator."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import LabError
from kubenetlab.hoststate.rules import nftables as nftables_rules
from kubenetlab.hoststate.rules.bpf_listing import BpfListing
from kubenetlab.hoststate.rules.bpf_objects import BpfObject
from kubenetlab.hoststate.rules.cilium import differences
from kubenetlab.hoststate.rules.nftables import NftObject
from kubenetlab.hoststate.rules.rulesets import RuleObject, members
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.kernel.rules import ipset, iptables
from kubenetlab.kernel.rules.backends import open_loader
from kubenetlab.kernel.rules.policy_drops import open_log
from kubenetlab.observe.policies.evaluator import Evaluator, Traffic
from tests.examples import examples, examples_with_packets
from tests.kernel.comparing import lines
from tests.kernel.pod_network import CiliumDrops, CiliumNetwork, Drops, Network, NftDrops
from tests.kernel.test_nft_messages import Side, load_both
from tests.kernel.test_nftables import open_loader as open_nft
from tests.libbpf import require_libbpf
from tests.policies import POLICIES, node_rules, with_policies

BACKENDS = {
    "nftables": ("nftables",),
    "iptables": ("ipset", "iptables"),
    "ebpf": ("cilium",),
}
"""Rule backends of each policy engine."""
ENGINES = pytest.mark.parametrize("engine", BACKENDS)
NETFILTER_ENGINES = pytest.mark.parametrize("engine", ["nftables", "iptables"])


def require_programs(engine: str) -> None:
    if engine == "ebpf":
        require_libbpf()
    if engine == "iptables":
        for program, hint in (
            (ipset.PROGRAM, ipset.INSTALL_HINT),
            (iptables.PROGRAM, iptables.INSTALL_HINT),
        ):
            if shutil.which(program) is None:
                pytest.skip(f"the program {program} is not installed; {hint}")


@contextmanager
def loaded_rules(engine: str) -> Iterator[tuple[Callable[[list[RuleObject]], None], Drops]]:
    """Yield the function that changes the rules to these, and the counters of drops.

    In the end nothing is left.
    """
    require_programs(engine)
    with ExitStack() as stack:
        nft = stack.enter_context(closing(open_nft("library")))
        loaders = {
            name: stack.enter_context(closing(open_loader(name))) for name in BACKENDS[engine]
        }
        loaded: list[RuleObject] = []

        def load(desired: list[RuleObject]) -> None:
            nonlocal loaded
            for transaction in steps(loaded, desired, {}, anew=False):
                loaders[transaction.backend].run(transaction.text)
            loaded = desired

        yield load, CiliumDrops(loaders["cilium"]) if engine == "ebpf" else NftDrops(nft)
        load([])
        assert [loader.text() for loader in loaders.values()] == [""] * len(loaders)


def network_of(engine: str) -> Network:
    """Return the pods on a node with the links that an engine needs."""
    require_programs(engine)
    return CiliumNetwork() if engine == "ebpf" else Network()


@ENGINES
def test_connections_have_the_verdicts_of_the_evaluator(engine: str) -> None:
    """Random policies replace each other; packets of all pods and of a host outside, IPv4 and IPv6.

    Each example is one change on top of the previous one.
    """
    network = network_of(engine)
    with loaded_rules(engine) as (load, dropped):

        @settings(max_examples=examples_with_packets(100), deadline=None)
        @given(policies=st.lists(POLICIES, max_size=6))
        def check(policies: list[JsonObject]) -> None:
            cluster = with_policies(policies)
            load(node_rules(engine, cluster))
            evaluator = Evaluator(cluster)
            for source, destination, traffic, is_answered in network.connections(dropped):
                verdict = evaluator.verdict(source, destination, traffic)
                assert is_answered == verdict.is_allowed, (source, destination, traffic, verdict)

        check()


@NETFILTER_ENGINES
def test_policies_apply_to_packets_that_ipvs_sends(engine: str) -> None:
    """They come from pods, and leave the node by OUTPUT. Packets of the node itself pass."""
    network = Network()
    with loaded_rules(engine) as (load, dropped):

        @settings(max_examples=examples(20), deadline=None)
        @given(policies=st.lists(POLICIES, max_size=6))
        def check(policies: list[JsonObject]) -> None:
            cluster = with_policies(policies)
            load(node_rules(engine, cluster))
            evaluator, traffic = Evaluator(cluster), Traffic("UDP", 53)
            for source in network.parties[0][:-1]:
                for destination in network.parties[0]:
                    if source == destination:
                        continue
                    before = dropped.read()
                    network.send_through_output(source.address, destination.address, traffic.port)
                    verdict = evaluator.verdict(source, destination, traffic)
                    assert dropped.read() - before == (not verdict.is_allowed), (
                        source,
                        destination,
                        verdict,
                    )

        check()


@ENGINES
def test_changes_and_replacements_load_the_same_rules(engine: str) -> None:
    """The rules are the desired ones after a change, and after a replacement of all rules."""
    require_programs(engine)
    if engine == "ebpf":
        CiliumNetwork(has_tunnel=True)
    with ExitStack() as stack:
        loaders = {
            name: stack.enter_context(closing(open_loader(name))) for name in BACKENDS[engine]
        }
        loaded: list[RuleObject] = []

        @settings(max_examples=examples(20), deadline=None)
        @given(policies=st.lists(POLICIES, max_size=6))
        def check(policies: list[JsonObject]) -> None:
            nonlocal loaded
            desired = node_rules(engine, with_policies(policies))
            for anew in (False, True):
                for transaction in steps(loaded, desired, {}, anew=anew):
                    loaders[transaction.backend].run(transaction.text)
                if engine == "ebpf":
                    listed = cast("BpfListing", loaders["cilium"].listed(()))
                    objects = [obj for obj in members(desired) if isinstance(obj, BpfObject)]
                    assert not [*differences(objects, listed)]
                else:
                    assert lines(desired) == []
            loaded = desired

        check()


def test_the_log_of_programs_has_the_packets_that_they_drop() -> None:
    """Each with both ends, the identifier of a ping, and the policies that isolate the pod."""
    network = network_of("ebpf")
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [], "egress": []}
    cluster = with_policies([{"namespace": "default", "spec": spec}])
    with loaded_rules("ebpf") as (load, dropped):
        load(node_rules("ebpf", cluster))
        with closing(open_log()) as log:
            denied = {
                (source.address, destination.address, traffic.protocol, traffic.port)
                for source, destination, traffic, is_answered in network.connections(dropped)
                if not is_answered
            }
            packets = list(log.read())
            with pytest.raises(LabError):
                open_log()
    assert denied == {
        (packet.source, packet.destination, packet.protocol, packet.destination_port)
        for packet in packets
    }
    assert {packet.prefix for packet in packets} == {"Ingress isolated by default/p0"}
    assert all(packet.echo[0] for packet in packets if packet.protocol == "ICMP")


@pytest.mark.first_kernel
def test_messages_and_commands_give_identical_kernel_state() -> None:
    by_library, by_messages = Side(), Side()
    loaded: list[NftObject] = []

    @settings(max_examples=examples(50), deadline=None)
    @given(policies=st.lists(POLICIES, max_size=3))
    def check(policies: list[JsonObject]) -> None:
        nonlocal loaded
        rules = node_rules("nftables", with_policies(policies))
        desired = [obj for obj in members(rules) if isinstance(obj, NftObject)]
        if commands := nftables_rules.transaction(loaded, desired):
            load_both(commands, by_library, by_messages)
            assert by_messages.has(desired) == by_library.has(desired)
        loaded = desired

    check()
