"""Two pods with one address: which of them gets the packets, what reports it, and healing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.clusters import pod
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import PLUGINS_ADVICE, has_plugins, manifest
from tests.labs.test_pod_networks import CALICO, CILIUM, FLANNEL, WEAVE, require

EITHER = frozenset("abc")
"""Servers that may answer where both pods answer ARP requests."""

PERMANENT = "{type: bridge, neighbors: permanent, layout: routed}"
ON_ONE_NODE = {
    "bridge": ("bridge", EITHER),
    "bridge-permanent": (PERMANENT, "b"),
    "ptp": ("ptp", "b"),
    "kube-router": ("kube-router", EITHER),
    "calico": (CALICO["bgp"], "b"),
    "weave": (WEAVE[""], EITHER),
    "weave-permanent": (WEAVE["-permanent"], EITHER),
    "cilium": (CILIUM["tunnel"], "b"),
    "cilium-legacy": (CILIUM["legacy"], "b"),
}
"""Mode, and the pods that may answer for an address of the pods a and b of one node."""
OWNER_WINS = {"control-plane": "a", "worker": "a", "worker2": "a"}
EACH_ITS_OWN = {"control-plane": "a", "worker": "a", "worker2": "c"}
LAST_WINS = {"control-plane": "c", "worker": "a", "worker2": "c"}
CONFLICT = dict.fromkeys(OWNER_WINS, EITHER)
ON_TWO_NODES = {
    "bridge": ("bridge", OWNER_WINS),
    "ptp": ("ptp", EACH_ITS_OWN),
    "flannel": (FLANNEL["vxlan"], OWNER_WINS),
    "calico": (CALICO["bgp"], LAST_WINS),
    "calico-vxlan": (CALICO["vxlan"], EACH_ITS_OWN),
    "weave": (WEAVE[""], CONFLICT),
    "cilium": (CILIUM["tunnel"], LAST_WINS),
}
"""Mode, and node → pods that may answer it for an address of pods of worker and worker2."""


@contextmanager
def one_address(lab: Lab, owner: str, other: str) -> Iterator[tuple[str, ...]]:
    """Give a pod the addresses of another one, and yield them; heal, and require that all works."""
    addresses = tuple(lab.pod(owner)["addresses"])
    out = lab.run("break", "ipam", "--pod", owner, "--with", other).out
    assert f"fault 1: pod default/{other} has the addresses of pod default/{owner}" in out
    wait_for(
        lambda: lab.pod(other)["ready"] and tuple(lab.pod(other)["addresses"]) == addresses,
        "the pod with the addresses of another one",
    )
    wait_for(lambda: set(addresses) <= kernel_addresses(lab, other), "its addresses in the kernel")
    yield addresses
    lab.run("heal")
    wait_for(
        lambda: lab.pod(other)["ready"] and not set(lab.pod(other)["addresses"]) & set(addresses),
        "addresses of its own",
    )
    assert tuple(lab.pod(owner)["addresses"]) == addresses
    forget_neighbors(lab, addresses)
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the lab without the fault")
    wait_for(lambda: lab.run("ping", "-o", "json", status=None).json["ok"], "the whole matrix")
    assert lab.problems == []


def forget_neighbors(lab: Lab, addresses: tuple[str, ...]) -> None:
    """Delete learned MACs of addresses, which nodes and pods would keep for half a minute."""
    places = [*(lab.place("nodes", node) for node in OWNER_WINS), *map(lab.pod, "abcd")]
    for place in places:
        for address in addresses:
            lab.inside(place, "ip", "neighbor", "flush", "to", address)


def has_addresses(lab: Lab, name: str, addresses: list[str]) -> bool:
    return bool(lab.pod(name)["ready"] and lab.pod(name)["addresses"] == addresses)


def kernel_addresses(lab: Lab, name: str) -> set[str]:
    """Return the addresses of a pod's link in the kernel."""
    (link,) = json.loads(lab.inside(lab.pod(name), "ip", "-j", "address", "show", "eth0"))
    return {entry["local"] for entry in link["addr_info"]}


def server_seen(lab: Lab, node: str, address: str) -> str:
    """Return the name of the pod that answers a node at an address; empty without an answer."""
    (answer,) = lab.ask(lab.place("nodes", node), ("TCP", address, 8080))
    return answer.server


def answers_as(lab: Lab, node: str, address: str, servers: str | frozenset[str]) -> None:
    """Wait until one of some pods answers a node at an address."""
    wait_for(
        lambda: server_seen(lab, node, address) in set(servers), f"an answer of {servers} to {node}"
    )


@pytest.mark.parametrize(("cni", "servers"), ON_ONE_NODE.values(), ids=ON_ONE_NODE)
def test_on_one_node_the_last_pod_wins_or_both_answer_arp(
    lab: Lab, cni: str, servers: str | frozenset[str]
) -> None:
    """Routes and endpoints point to the pod that got the address last; on a bridge, ARP decides."""
    require(cni)
    lab.up(manifest("dual", cni) + "---\n" + pod("d", ", nodeName: control-plane"))
    with one_address(lab, "a", "b") as addresses:
        for address in addresses:
            for node in ("worker", "worker2", "control-plane"):
                answers_as(lab, node, address, servers)
        if servers == EITHER:
            assert len(arp_replies(lab, "c" if "weave" in cni else "worker", addresses[0])) == 2
        if cni == "bridge":
            reports(lab, addresses, "a", "b")


@pytest.mark.parametrize(("cni", "servers"), ON_TWO_NODES.values(), ids=ON_TWO_NODES)
def test_on_two_nodes_the_owner_of_the_range_or_the_most_specific_route_wins(
    lab: Lab, cni: str, servers: dict[str, str | frozenset[str]]
) -> None:
    """The mode, and the node of the client, determine the pod that answers."""
    require(cni)
    lab.up(manifest("dual", cni) + "---\n" + pod("d", ", nodeName: control-plane"))
    with one_address(lab, "a", "c") as addresses:
        for address in addresses:
            for node, expected in servers.items():
                answers_as(lab, node, address, expected)
        if cni == CALICO["bgp"]:
            reports(lab, addresses, "a", "c")
        lab.kill("agent")
        assert lab.run("diff", status=1).out
        assert server_seen(lab, "control-plane", addresses[0]) in servers["control-plane"]


def reports(lab: Lab, addresses: tuple[str, ...], owner: str, other: str) -> None:
    """Require that every command that shows results says which pods share an address."""
    summary = f"broken on purpose: pod default/{other} has the addresses of pod default/{owner}"
    messages = [
        f"duplicate address {address}: pods default/{owner} and default/{other}"
        for address in addresses
    ]
    for words in (("ping",), ("ping", "d", owner), ("ping", "d", other, "--count", "2"), ("diff",)):
        shown = lab.run(*words, status=1)
        for message in messages if len(words) == 1 else messages[:1]:
            assert message in shown.out + shown.err, words
        assert summary in shown.err, words
    once = lab.run("ping", "d", owner, "-o", "json", status=1).json
    assert once["duplicates"][0].startswith(messages[0])
    assert not once["ok"]
    assert lab.run("diff", "-o", "json", status=1).json["duplicates"]
    assert messages[0] in lab.run("check", status=1).out
    assert messages[0] in lab.run("inspect", other).err
    assert lab.run("ping", "d", "node:worker").status == 0


_ARP = """
import json, socket, struct, sys, time
link, target = sys.argv[1:]
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
packets.bind((link, 0))
own = packets.getsockname()[4]
request = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own, bytes(4), bytes(6),
                      socket.inet_aton(target))
packets.send(bytes([255] * 6) + own + bytes([8, 6]) + request)
seen, deadline = set(), time.monotonic() + 5
while len(seen) < 2 and (left := deadline - time.monotonic()) > 0:
    packets.settimeout(left)
    try:
        frame = packets.recv(128)
    except TimeoutError:
        break
    if frame[20:22] == bytes([0, 2]) and frame[28:32] == socket.inet_aton(target):
        seen.add(frame[22:28].hex(":"))
print(json.dumps(sorted(seen)))
"""
"""Program that sends one ARP probe and prints the MACs of the replies."""


def arp_replies(lab: Lab, place: str, address: str) -> list[str]:
    """Return the MACs that answer an ARP request of a node's bridge, or of a pod."""
    if place == "worker":
        node = lab.place("nodes", place)
        routes = json.loads(lab.inside(node, "ip", "-j", "route", "get", address))
        return list(
            json.loads(lab.inside(node, sys.executable, "-c", _ARP, routes[0]["dev"], address))
        )
    return list(json.loads(lab.inside(lab.pod(place), sys.executable, "-c", _ARP, "eth0", address)))


@pytest.mark.parametrize("cni", ["bridge", "ptp", CALICO["bgp"], CILIUM["tunnel"]])
def test_the_fault_ends_with_the_pod_that_shares_the_address(lab: Lab, cni: str) -> None:
    """The first pod has the address for itself at once: nothing is missing in the kernel."""
    require(cni)
    lab.up(manifest("dual", cni))
    for other in ("b", "c"):
        addresses = lab.pod("a")["addresses"]
        lab.run("break", "ipam", "--pod", "a", "--with", other)
        wait_for(partial(has_addresses, lab, other, addresses), "the pod with the same addresses")
        lab.run("delete", "pod", other)
        assert lab.get("faults")["items"] == []
        assert lab.pod("a")["addresses"] == addresses
        assert lab.run("diff").status == 0
        for address in addresses:
            answers_as(lab, "worker2", address, "a")


@pytest.mark.skipif(not has_plugins(), reason=PLUGINS_ADVICE)
def test_a_duplicate_of_external_plugins_is_reported(lab: Lab) -> None:
    """An IPAM plugin that has lost its reservations hands out an address again; `up` fails."""
    lab.up(manifest("ipv4", "conflist"))
    address = lab.pod("b")["addresses"][0]
    networks = "/var/lib/cni/networks/containerd-net"
    before = lab.pod("a")["addresses"][0]
    lost = f"rm {networks}/{address}; echo {before} > {networks}/last_reserved_ip.0"
    lab.run("exec", "node:worker", "--", "sh", "-c", lost)
    second = pod("late", ", nodeName: worker")
    shown = lab.run("apply", "-f", "-", stdin=second, status=1)
    message = f"duplicate address {address}: pods default/b and default/late"
    assert lab.pod("late")["addresses"] == [address]
    assert message in shown.err
    for words in (("ping",), ("ping", "c", "late"), ("diff",), ("check",)):
        shown = lab.run(*words, status=1)
        assert message in shown.out + shown.err, words
    refused = lab.run("break", "ipam", "--pod", "a", "--with", "c", status=2)
    assert "the plugins assign addresses" in refused.err
    lab.run("delete", "pod", "late")
    # The plugin has released the address, so that its CHECK of the first pod fails.
    assert "duplicate address" not in lab.run("diff", status=1).err
    lab.run("delete", "pod", "b")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "no pod without a reservation")
