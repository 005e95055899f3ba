"""Differences between two states, and the plans that users read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.link import Bridge, LinkUp, Port, Veth
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.fake import FakeKernel
from tests.unit.hoststate.rule_sets import node_rules, service_rules

objects = st.one_of(
    st.builds(Sysctl, st.just("n"), st.sampled_from(["a", "b", "c"]), st.sampled_from(["0", "1"])),
    st.builds(
        Address,
        st.just("n"),
        st.sampled_from(["eth0", "lo"]),
        st.sampled_from(["10.0.0.1/8", "10.0.0.2/8"]),
        st.sampled_from(["global", "link"]),
    ),
    st.builds(
        Route,
        st.just("n"),
        st.sampled_from(["10.0.0.0/8", "0.0.0.0/0"]),
        st.just("eth0"),
        st.sampled_from(["", "10.0.0.9"]),
    ),
    st.builds(LinkUp, st.just("n"), st.just("lo")),
)
namespaces = st.dictionaries(
    st.sampled_from(["n", "m"]), st.lists(objects, max_size=8).map(contents_of), max_size=2
)


def state_of(found: dict[str, Any]) -> HostState:
    return HostState(
        {
            netns: contents_of([Sandbox(netns, "h"), *contents.values()])
            for netns, contents in found.items()
        }
    )


@given(namespaces, namespaces)
def test_applying_a_difference_leaves_none(before: dict[str, Any], after: dict[str, Any]) -> None:
    """From any state to any other: what is applied is what was missing, and then nothing is."""
    kernel = FakeKernel()
    first, second = state_of(before), state_of(after)
    kernel.apply(diff(HostState(), first)).raise_failures()
    kernel.apply(diff(HostState(kernel.observe(first.namespaces)), second)).raise_failures()
    everything = {**first.namespaces, **second.namespaces}
    assert not diff(HostState(kernel.observe(everything)), second)


def test_a_namespace_that_is_the_same_mapping_is_not_looked_at() -> None:
    """Identity is enough: what did not change costs nothing."""
    contents = contents_of([Sandbox("n", "h"), Sysctl("n", "a", "1")])

    class Untouchable(dict[Any, Any]):
        def items(self) -> Any:
            raise AssertionError("looked at")

    same = Untouchable(contents)
    assert not diff(HostState({"n": same}), HostState({"n": same}))


def test_a_plan_reads_like_a_list_of_commands() -> None:
    """Signs, objects in iproute2's words, what was there before."""
    before = HostState(
        {
            "n": contents_of(
                [
                    Sandbox("n", "h"),
                    Sysctl("n", "net/ipv4/ip_forward", "0"),
                    Route("n", "10.0.0.0/8", "eth0", via="10.9.9.9"),
                ]
            )
        }
    )
    after = HostState(
        {
            "n": contents_of(
                [
                    Sandbox("n", "h"),
                    Sysctl("n", "net/ipv4/ip_forward", "1"),
                    Address("n", "eth0", "10.1.1.1/24"),
                ]
            )
        }
    )
    assert str(diff(before, after)) == (
        "n\n"
        "  - route 10.0.0.0/8 via 10.9.9.9 dev eth0\n"
        "  ~ sysctl net.ipv4.ip_forward = 1    (was: sysctl net.ipv4.ip_forward = 0)\n"
        "  + address 10.1.1.1/24 dev eth0"
    )


@pytest.mark.parametrize(
    "obj",
    [
        LinkUp("n", "lo"),
        Bridge("n", "br0", "0a:58:00:00:00:01"),
        Port("n", "veth0", "cbr0", "0a:59:00:00:00:02", alias="x", is_hairpin=True),
        Sandbox("n", "h", shares="m"),
    ],
)
def test_objects_read_well(obj: Object) -> None:
    """`str` is what users see in plans and errors."""
    assert str(obj)[0].islower()
    assert "(" not in str(obj)


def test_what_stands_on_a_new_link_is_made_with_it() -> None:
    """Also when it was seen a moment ago: the kernel takes a dead namespace's links away some time after it."""
    ends = [
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02"),
        Address("node", "br0", "10.0.0.1/24"),
    ]
    pod = [
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Address("pod", "eth0", "10.0.0.2/24"),
    ]
    wanted = HostState({"node": contents_of(ends), "pod": contents_of(pod)})
    seen = HostState({"node": contents_of(ends), "pod": contents_of(pod[1:])})
    assert [str(operation) for operation in diff(seen, wanted).operations()] == [
        "+ port veth0 of br0 mac 0a:59:00:00:00:02 mtu 1500",
        "+ veth eth0 mac 0a:58:00:00:00:02 mtu 1500 ↔ veth0 in node",
        "+ address 10.0.0.2/24 dev eth0",
    ]


def test_what_stands_on_a_link_that_is_replaced_is_made_with_it() -> None:
    """A veth whose other end was seen elsewhere goes, and takes its address along, even where that was still seen."""
    address = Address("n", "eth0", "10.0.0.1/24")
    wanted = contents_of(
        [Sandbox("n", "a node"), Veth("n", "eth0", "0a:58:0a:00:00:01", "s", "n"), address]
    )
    seen = contents_of(
        [Sandbox("n", "a node"), Veth("n", "eth0", "0a:58:0a:00:00:01", "", "?"), address]
    )
    (changes,) = diff(HostState({"n": seen}), HostState({"n": wanted})).namespaces
    assert [(operation.verb, operation.object) for operation in changes.operations] == [
        ("change", wanted["Link", "eth0"]),
        ("add", address),
    ]


def test_what_departs_is_named() -> None:
    """Namespaces that go: so that nobody remembers for ever what was computed for them."""
    before = HostState(
        {
            "n": contents_of([Sandbox("n", "h"), node_rules(service_rules("web", "10.0.0.1"))]),
            "gone": contents_of([Sandbox("gone", "h")]),
        }
    )
    assert diff(before, HostState({"n": contents_of([Sandbox("n", "h")])})).departed() == {"gone"}
