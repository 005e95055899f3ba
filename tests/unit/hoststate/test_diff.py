"""Differences between two states, and the plans that users read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, NetnsChanges, diff
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Port, Veth
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
        st.booleans(),
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


def state_of(contents_by_netns: dict[str, Any]) -> HostState:
    return HostState(
        {
            netns: contents_of([Sandbox(netns, "h"), *contents.values()])
            for netns, contents in contents_by_netns.items()
        }
    )


@given(namespaces, namespaces)
def test_applying_a_difference_leaves_none(before: dict[str, Any], after: dict[str, Any]) -> None:
    """After the difference between any two states is applied, there is no difference."""
    kernel = FakeKernel()
    first, second = state_of(before), state_of(after)
    kernel.apply(diff(HostState(), first)).raise_failures()
    kernel.apply(diff(HostState(kernel.observe(first.namespaces)), second)).raise_failures()
    everything = {**first.namespaces, **second.namespaces}
    assert not diff(HostState(kernel.observe(everything)), second)


def test_a_namespace_with_the_same_mapping_is_skipped() -> None:
    """The same mapping on both sides is not iterated."""
    contents = contents_of([Sandbox("n", "h"), Sysctl("n", "a", "1")])

    class Untouchable(dict[Any, Any]):
        def items(self) -> Any:
            raise AssertionError("looked at")

    same = Untouchable(contents)
    assert not diff(HostState({"n": same}), HostState({"n": same}))


def test_a_plan_reads_like_a_list_of_commands() -> None:
    """A line has a sign, the object in iproute2's notation and the previous object."""
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
def test_objects_have_readable_texts(obj: Object) -> None:
    """The text of an object appears in plans and errors."""
    assert str(obj)[0].islower()
    assert "(" not in str(obj)


def test_dependents_of_a_new_link_are_added_again() -> None:
    """They are added even if they were observed, because the kernel deletes links with a delay."""
    ends = [
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02"),
        Address("node", "br0", "10.0.0.1/24"),
    ]
    pod = [
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Address("pod", "eth0", "10.0.0.2/24"),
    ]
    desired = HostState({"node": contents_of(ends), "pod": contents_of(pod)})
    observed = HostState({"node": contents_of(ends), "pod": contents_of(pod[1:])})
    assert [str(operation) for operation in diff(observed, desired).operations()] == [
        "+ port veth0 of br0 mac 0a:59:00:00:00:02 mtu 1500",
        "+ veth eth0 mac 0a:58:00:00:00:02 mtu 1500 ↔ veth0 in node",
        "+ address 10.0.0.2/24 dev eth0",
    ]


def test_dependents_of_a_replaced_link_are_added_again() -> None:
    """A veth with another peer is replaced, and its address is added even if it was observed."""
    address = Address("n", "eth0", "10.0.0.1/24")
    desired = contents_of(
        [Sandbox("n", "a node"), Veth("n", "eth0", "0a:58:0a:00:00:01", "s", "n"), address]
    )
    observed = contents_of(
        [Sandbox("n", "a node"), Veth("n", "eth0", "0a:58:0a:00:00:01", "", "?"), address]
    )
    (changes,) = diff(HostState({"n": observed}), HostState({"n": desired})).namespaces
    assert [(operation.verb, operation.object) for operation in changes.operations] == [
        ("change", desired["Link", "eth0"]),
        ("add", address),
    ]


def test_removed_namespaces_are_reported() -> None:
    """Callers drop what they cached for removed namespaces."""
    before = HostState(
        {
            "n": contents_of([Sandbox("n", "h"), node_rules(service_rules("web", "10.0.0.1"))]),
            "gone": contents_of([Sandbox("gone", "h")]),
        }
    )
    assert diff(
        before, HostState({"n": contents_of([Sandbox("n", "h")])})
    ).removed_namespaces() == {"gone"}


def test_links_of_guarded_namespaces_are_set_up_after_the_rules() -> None:
    """They are created down; routes, which need a link that is up, wait for it."""
    veth = Veth("pod", "eth0", "02:00:00:00:00:01", "node", "veth0")
    address, route = Address("pod", "eth0", "10.0.0.2/32"), Route("pod", "0.0.0.0/0", "eth0")
    desired = state_of({"node": {}, "pod": contents_of([veth, address, route])})
    changes = diff(HostState(), desired)
    assert changes.split_around_rules() == (changes, Changes(()))
    early, late = changes.split_around_rules({"pod"})
    down = structs.replace(veth, is_up=False)
    assert [op.object for op in early.operations() if op.object.netns == "pod"][1:] == [
        down,
        address,
    ]
    assert [(op.verb, op.object, op.before) for op in late.operations()] == [
        ("change", veth, down),
        ("add", route, None),
    ]
    kernel = FakeKernel()
    kernel.apply(early).raise_failures()
    again = diff(HostState(kernel.observe(desired.namespaces)), desired)
    assert again.split_around_rules({"pod"}) == (Changes((NetnsChanges("pod", ()),)), late)
    kernel.apply(late).raise_failures()
    assert not diff(HostState(kernel.observe(desired.namespaces)), desired)
