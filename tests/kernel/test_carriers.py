"""Queues of links whose peers have just been set up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.links.messages import IFLA_IFNAME, dump_links
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.netlink.wire import as_string, attributes
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.netlink.carriers import links_with_new_carriers, open_queues
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from tests.kernel.states import Make, apply_desired, ip, state_of

VERSION = [int(number) for number in os.uname().release.split(".")[:2]]
"""Version of the running kernel."""
PAIRS, FIRST_INDEX = 600, 1000
"""The worker needs at least six seconds for that many links."""
IFINFOMSG_BYTES, IFLA_OPERSTATE, IF_OPER_UP = 16, 16, 6


def without_carrier(linux: LinuxKernel, netns: str) -> set[str]:
    """Return the names of the veths whose carrier the kernel has not processed yet."""
    with linux.sandboxes.inside(netns), RouteSocket() as route:
        links = [attributes(body[IFINFOMSG_BYTES:]) for body in route.dump(dump_links())]
    names = {as_string(link[IFLA_IFNAME]): link[IFLA_OPERSTATE][0] for link in links}
    return {name for name, state in names.items() if name != "lo" and state != IF_OPER_UP}


@pytest.mark.skipif(VERSION < [6, 8], reason="only the kernel's worker opens queues before 6.8")
def test_queues_are_opened_at_once(kernel: Make, tmp_path: Path) -> None:
    """The kernel's worker alone needs seconds.

    It processes at most 100 links a second if both ends of a veth have the same index, because it
    then does not see that the link is a veth.
    """
    linux = kernel()
    apply_desired(
        linux, state_of(Address("a", "lo", "10.9.0.1/32"), Address("b", "lo", "10.9.0.2/32"))
    )
    indexes = range(FIRST_INDEX, FIRST_INDEX + PAIRS)
    peer = linux.sandboxes.pids["b"]
    batches = {
        "pairs": f"link add v{{0}} index {{0}} type veth peer name v{{0}} index {{0}} netns {peer}",
        "up": "link set v{0} up",
    }
    for name, line in batches.items():
        text = "".join(f"{line.format(index)}\n" for index in indexes)
        (tmp_path / name).write_text(text)
    ip(linux, "a", "-batch", str(tmp_path / "pairs"))
    for netns in ("a", "b"):
        ip(linux, netns, "-batch", str(tmp_path / "up"))
    assert without_carrier(linux, "b"), "the worker was as fast: there is nothing to test"
    with linux.sandboxes.inside("b"), RouteSocket() as route:
        open_queues(route, [*indexes, FIRST_INDEX + PAIRS])  # the last one does not exist
    assert without_carrier(linux, "b") == set()


def test_links_whose_peers_are_set_up_get_a_carrier() -> None:
    """A veth that is set up later is changed; a new one is set up before its peer."""
    veth = Veth("pod", "eth0", "0a:58:0a:f4:01:02", "node", "veth1")
    down = Veth("other", "eth0", "0a:58:0a:f4:01:03", "node", "veth2", is_up=False)
    changes = [Operation("change", veth), Operation("change", down), Operation("add", down)]
    entries = tuple(NetnsChanges(operation.object.netns, (operation,)) for operation in changes)
    assert links_with_new_carriers(Changes(entries)) == {"node": ["veth1"]}
