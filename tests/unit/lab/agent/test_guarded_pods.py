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


def test_isolated_pods_wait_for_the_rules() -> None:
    assert guarded_pods(added(rules_change=False), {"pod/other"}) == {"pod/other"}
    assert guarded_pods(added(rules_change=True), frozenset()) == frozenset()


def test_all_new_pods_wait_when_rules_of_a_running_node_change() -> None:
    """The rules may mean the pod that had the address before."""
    assert guarded_pods(added(rules_change=True), {"pod/other"}) == {"pod/other", "pod/new"}
    everything_new = diff(HostState(), state(rules("old")))
    assert guarded_pods(everything_new, {"pod/other"}) == {"pod/other"}


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
