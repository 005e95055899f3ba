"""Links of new pods wait for the rules of network policies, and drop packets that wait for them."""

from __future__ import annotations

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, NetnsChanges, diff
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import Table
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.lab.agent.guarded_pods import (
    guarded_pods,
    open_pods,
    without_waiting_packets,
)

VETH = Veth("pod/new", "eth0", "02:00:00:00:00:01", "node/n", "veth0")
PORT = Port("node/n", "veth0", "cbr0", "02:00:00:00:00:02")
NEIGHBOR = Neighbor("node/n", "cbr0", "10.0.0.2", VETH.mac)


def state(*of_node: Object) -> HostState:
    """Return a node with a new pod, whose link is a port of a bridge."""
    pod = (Sandbox("pod/new", "h"), VETH, Address("pod/new", "eth0", "10.0.0.2/24"))
    node = (Sandbox("node/n", "n"), PORT, *of_node)
    return HostState({"node/n": contents_of(node), "pod/new": contents_of(pod)})


def rules(comment: str) -> Table:
    return Table("node/n", "ip", "network-policy", comment)


def added(*, rules_change: bool) -> Changes:
    """Return the changes that add the pod to a running node."""
    before = {"node/n": contents_of((Sandbox("node/n", "n"), rules("old")))}
    return diff(HostState(before), state(rules("new" if rules_change else "old")))


def guarded(changes: Changes, observed: HostState, *, refused: bool = False) -> set[str]:
    return set(guarded_pods(changes, {"pod/other"}, observed.namespaces, has_refused_rules=refused))


def test_isolated_pods_wait_for_the_rules() -> None:
    """Other pods do not, also if rules change at the same time."""
    assert guarded(added(rules_change=True), HostState()) == {"pod/other"}
    none = guarded_pods(added(rules_change=True), frozenset(), {}, has_refused_rules=True)
    assert none == frozenset()


def test_a_pod_waits_if_another_one_had_its_address() -> None:
    """The rules of nodes mean that pod until they have changed."""
    former = {
        "node/n": contents_of((Sandbox("node/n", "n"), rules("old"))),
        "pod/old": contents_of(
            (Sandbox("pod/old", "h"), Address("pod/old", "eth0", "10.0.0.2/24"))
        ),
    }
    changes = diff(HostState(former), state(rules("new")))
    assert guarded(changes, HostState(former)) == {"pod/other", "pod/new"}


def test_pods_wait_if_a_node_may_have_older_rules() -> None:
    """Its rules were refused, or a new agent does not know them."""
    assert guarded(added(rules_change=True), HostState(), refused=True) == {"pod/other", "pod/new"}
    without = {"node/n": contents_of((Sandbox("node/n", "n"),))}
    changes = diff(HostState(without), state(rules("new")))
    assert guarded(changes, HostState()) == {"pod/other", "pod/new"}
    assert guarded(diff(HostState(), state(rules("new"))), HostState()) == {"pod/other"}


def test_pods_stay_closed_without_the_rules_of_their_node() -> None:
    _, late = added(rules_change=True).split_around_rules({"pod/new"})
    assert open_pods(late, frozenset()) == (late, {})
    opened, errors = open_pods(late, {"node/n"})
    assert opened == Changes(())
    assert "the rules of node/n could not be loaded" in errors["pod/new"]


def test_waiting_packets_are_dropped_with_the_entry_of_the_neighbour() -> None:
    """A permanent entry lets no packet wait, and is kept."""
    desired = state()
    _, late = diff(HostState(), desired).split_around_rules({"pod/new"})
    (entry,) = without_waiting_packets(late, desired).namespaces
    assert isinstance(entry, NetnsChanges)
    assert [(each.verb, each.object) for each in entry.operations] == [("remove", NEIGHBOR)]
    assert without_waiting_packets(late, state(NEIGHBOR)) == Changes(())
