"""The order in which bridge ports are released."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.kernel.port_queue import PortQueue

PORT = Operation("add", Port("node", "veth0", "cbr0", "0a:58:00:00:00:01"))
NODE = NetnsChanges("node", (Operation("add", Sandbox("node", "node")), PORT))


def pod(name: str, number: int) -> NetnsChanges:
    veth = Veth(name, "eth0", f"0a:58:00:00:00:1{number}", "node", f"veth{number}")
    return NetnsChanges(name, (Operation("add", Sandbox(name, name)), Operation("add", veth)))


def test_ports_wait_for_the_veths_of_all_other_namespaces() -> None:
    """A node's ports are released after its last pod, whichever comes first."""
    pods = pod("a", 0), pod("b", 1)
    for order in ((NODE, *pods), (*pods, NODE), (pods[0], NODE, pods[1])):
        calls: list[tuple[str, Sequence[Operation], Sequence[str]]] = []
        queue = PortQueue(Changes(order), lambda *call: calls.append(call))  # noqa: B023
        assert queue.is_awaited("node")
        assert not queue.is_awaited("a")
        for entry in order:
            queue.add(entry.netns, [PORT] if entry is NODE else [])
        assert not queue.is_awaited("node")
        assert sorted(calls[:-1]) == [("a", [], ()), ("b", [], ())]
        netns, ports, connected = calls[-1]
        assert (netns, ports, sorted(connected)) == ("node", [PORT], ["a", "b"])


def test_a_removed_veth_is_not_waited_for() -> None:
    """Only veths that are created become ports."""
    veth = pod("a", 0).operations[1].object
    calls: list[str] = []
    queue = PortQueue(
        Changes((NODE, NetnsChanges("a", (Operation("remove", veth),)))),
        lambda netns, ports, connected: calls.append(netns),
    )
    queue.add("node", [PORT])
    assert calls == ["node"]
