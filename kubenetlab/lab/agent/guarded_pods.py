"""Pods whose links stay down until the rules of network policies are in force on all nodes.

Packets to such a pod that have passed the old rules wait in its node for an answer to ARP or
neighbour discovery. They are dropped before the link is set up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.kernel.port_queue import connected_namespaces


def guarded_pods(
    changes: Changes,
    isolated: AbstractSet[str],
    observed: Mapping[str, Contents],
    *,
    has_refused_rules: bool,
) -> AbstractSet[str]:
    """Return the namespaces of the pods whose links are set up after the rules.

    These are the isolated pods, and new pods whose addresses other pods have had, which the present
    rules of nodes may mean.

    isolated: namespaces of the pods that policies isolate. observed: objects by namespace.
    has_refused_rules: True if a node may have older rules.
    """
    if not isolated:
        return isolated
    pods = {
        entry.netns: entry
        for entry in changes.namespaces
        if entry.is_new and entry.netns.startswith("pod/")
    }
    if has_refused_rules or any(map(_has_unknown_rules, changes.namespaces)):
        return isolated | pods.keys()
    released = {
        obj.address
        for entry in changes.namespaces
        if entry.is_removed
        for obj in observed.get(entry.netns, {}).values()
        if isinstance(obj, Address)
    }
    return isolated | {
        netns
        for netns, entry in pods.items()
        if released
        and any(
            isinstance(operation.object, Address) and operation.object.address in released
            for operation in entry.operations
        )
    }


def _has_unknown_rules(entry: NetnsChanges) -> bool:
    """Return True if an existing node gets rules anew, whatever it has."""
    return not (entry.is_new or entry.is_removed) and any(
        operation.verb == "add" and operation.object.applier == "rules"
        for operation in entry.operations
    )


def open_pods(late: Changes, without_rules: AbstractSet[str]) -> tuple[Changes, dict[str, str]]:
    """Return the late changes without those of pods that have to stay closed.

    Return an error for each of these pods, too: the rules of its node could not be loaded.

    late: changes that wait for the rules. without_rules: namespaces of such nodes.
    """
    errors = {
        entry.netns: f"{entry.netns}: its link stays down, because the rules of {node} could not "
        "be loaded, and a network policy may isolate it"
        for entry in late.namespaces
        for node in sorted(connected_namespaces(entry) & without_rules)
    }
    kept = tuple(entry for entry in late.namespaces if entry.netns not in errors)
    return Changes(kept), errors


def without_waiting_packets(late: Changes, desired: HostState) -> Changes:
    """Return the changes that drop packets which wait for the links that the late changes set up.

    A node drops them with the entry of the neighbour. Permanent entries let no packet wait.
    """
    operations: dict[str, list[Operation]] = {}
    for entry in late.namespaces:
        for operation in entry.operations:
            if operation.verb == "change" and isinstance(operation.object, Veth):
                for neighbor in _neighbors(operation.object, desired):
                    removal = Operation("remove", neighbor)
                    operations.setdefault(neighbor.netns, []).append(removal)
    return Changes(tuple(NetnsChanges(netns, tuple(each)) for netns, each in operations.items()))


def _neighbors(veth: Veth, desired: HostState) -> Iterator[Neighbor]:
    """Yield the entries by which the node of a pod may know its addresses."""
    node = desired[veth.peer_netns]
    peer = node.get(("Link", veth.peer))
    link = peer.master if isinstance(peer, Port) and peer.master else veth.peer
    for obj in desired[veth.netns].values():
        if isinstance(obj, Address) and obj.link == veth.name:
            neighbor = Neighbor(veth.peer_netns, link, obj.address.partition("/")[0], veth.mac)
            if neighbor.key not in node:
                yield neighbor
