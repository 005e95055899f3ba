"""BGPFilters, communities and settings of sessions with Calico: routes of BIRD, and packets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import Lab, wait_for
from tests.labs.test_bgp_peers import NO_MESH, REFLECTOR, SWITCHED
from tests.labs.test_bgp_router import bird_routes, manifest, reaches, sessions

pytestmark = pytest.mark.skipif(
    not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"
)
POOLS = """\
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: main}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: hidden}
spec: {cidr: 10.9.0.0/24, blockSize: 28, natOutgoing: true, assignmentMode: Manual}
---
apiVersion: v1
kind: Pod
metadata: {name: hidden, annotations: {cni.projectcalico.org/ipv4pools: '["hidden"]'}}
spec:
  nodeName: worker2
  containers: [{name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080}]}]
"""
SETTINGS = """\
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  nodeToNodeMeshEnabled: true
  serviceClusterIPs: [{cidr: 10.96.0.0/16}]
  bindMode: NodeIP
  communities: [{name: vip, value: '65000:1:2'}]
  prefixAdvertisements: [{cidr: 10.96.0.0/16, communities: [vip, '65000:96']}]
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 172.18.0.1, asNumber: 65000, filters: [tor], maxRestartTime: 33s}
"""
OWN_ONLY = "  - {action: Reject, source: RemotePeers}\n"
EXPORT = """\
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: tor}
spec:
  exportV4:
%s  - {action: Reject, matchOperator: In, cidr: 10.9.0.0/24}
  - action: Accept
    matchOperator: In
    cidr: 10.244.0.0/16
    prefixLength: {min: 26, max: 26}
    peerType: eBGP
    operations: [{addCommunity: {value: '65000:26'}}, {prependASPath: {prefix: [64999]}}]
"""


def attributes(lab: Lab, place: str, name: str) -> dict[str, set[str]]:
    """Return the values of an attribute of routes in BIRD, by destination."""
    shown = lab.run("exec", place, "--", "birdc", "show", "route", "all").out
    values: dict[str, set[str]] = {}
    destination = ""
    for line in shown.splitlines():
        if found := re.match(r"(\d\S*/\d+) ", line):
            destination = found[1]
        if destination and line.strip().startswith(f"{name}:"):
            values.setdefault(destination, set()).add(line.partition(":")[2].strip())
    return values


def pod_blocks(lab: Lab, *pods: str) -> list[str]:
    """Return the blocks of pods' addresses, which have 64 addresses each."""
    return [block_of(lab.pod(pod)) for pod in pods]


def block_of(pod: Any) -> str:
    first, last = pod["addresses"][0].rsplit(".", 1)
    return f"{first}.{int(last) // 64 * 64}/26"


def test_the_router_gets_what_filters_export(lab: Lab) -> None:
    """Marked with communities; the range of one pool is missing, and pods reach it.

    Without the rule about learned routes, each node announces the ranges of all nodes.
    """
    lab.up(
        SWITCHED.replace("topology: switched", "topology: switched, bgp: {}")
        + POOLS
        + SETTINGS
        + EXPORT % OWN_ONLY
    )
    assert lab.problems == []
    a, b, hidden = (lab.pod(name) for name in ("a", "b", "hidden"))
    (outside,) = lab.inspected["external"]
    assert [reaches(lab, a, b), reaches(lab, a, hidden)] == [True, True]
    assert [reaches(lab, outside, b), reaches(lab, outside, hidden)] == [True, False]
    blocks = pod_blocks(lab, "a", "b")
    routes = bird_routes(lab, "fabric:router")
    assert set(blocks) <= set(routes)
    assert not [each for each in routes if each.startswith("10.9.")]
    communities = attributes(lab, "fabric:router", "BGP.community")
    large = attributes(lab, "fabric:router", "BGP.large_community")
    paths = attributes(lab, "fabric:router", "BGP.as_path")
    for block in blocks:
        assert communities[block] == {"(65000,26)"}
        assert paths[block] == {"64512 64999"}
    assert communities["10.96.0.0/16"] == {"(65000,96)"}
    assert paths["10.96.0.0/16"] == {"64512"}
    assert large == {"10.96.0.0/16": {"(65000, 1, 2)"}}
    # bindMode and maxRestartTime: in the kernel, and at the other end.
    listening = lab.run("exec", "node:worker", "--", "ss", "-Hltn", "sport", "=", "179").out
    assert [line.split()[3] for line in listening.splitlines()] == ["172.18.0.3:179"]
    shown = lab.run("exec", "fabric:router", "--", "birdc", "show", "protocols", "all").out
    assert shown.count("Restart time: 33") == 3

    nodes = {f"172.18.0.{number}" for number in (2, 3, 4)}
    assert routes[blocks[1]] == {"172.18.0.4"}
    lab.apply(EXPORT % "")
    wait_for(
        lambda: bird_routes(lab, "fabric:router")[blocks[1]] == nodes, "next hops of all nodes"
    )
    assert reaches(lab, outside, b)
    assert lab.problems == []

    # A field that is not enforced is named, and fails what it could change.
    applied = lab.apply(SETTINGS.replace("maxRestartTime: 33s", "keepaliveTime: 10s"))
    field = "BGPPeer tor: spec.keepaliveTime"
    assert f"{field}: not enforced by this lab" in applied.err
    failed = lab.run("ping", "a", "b", "--tcp", "8080", status=1)
    assert f"could change this result: {field}" in failed.out
    lab.run("ping", "a", "b", "--tcp", "8080", "--allow-unmodelled", "bgppeer")


IMPORT = """\
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: no-b}
spec: {importV4: [{action: Reject, matchOperator: In, cidr: %s}]}
"""
REFLECTED = f"""\
{REFLECTOR}---
apiVersion: v1
kind: Node
metadata: {{name: worker, annotations: {{projectcalico.org/ASNumber: '65001'}}}}
"""


def clients(setting: str) -> str:
    return (
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: reflector}\n"
        'spec: {nodeSelector: "!has(route-reflector)", peerSelector: has(route-reflector), '
        f"{setting}}}\n"
    )


def test_the_next_hop_that_a_node_announces(lab: Lab) -> None:
    """In the routes of the kernel, by which packets pass the reflector or not.

    worker is in another autonomous system than the reflector, worker2 in the same one.
    """
    lab.up(SWITCHED + NO_MESH + REFLECTED + clients("nextHopMode: Self"))
    assert lab.problems == []
    a, b = lab.pod("a"), lab.pod("b")
    to_a, to_b = pod_blocks(lab, "a", "b")
    reflector, first, second = "172.18.0.2", "172.18.0.3", "172.18.0.4"

    def next_hops() -> tuple[str, str]:
        found = bird_routes(lab, "node:worker2"), bird_routes(lab, "node:worker")
        return min(found[0].get(to_a, {""})), min(found[1].get(to_b, {""}))

    wait_for(lambda: next_hops() == (reflector, reflector), "routes by the reflector")
    assert reaches(lab, a, b)
    for setting, expected in (
        ("nextHopMode: Keep", (first, second)),
        ("nextHopMode: Auto", (first, reflector)),
        ("keepOriginalNextHop: true", (first, second)),
    ):
        lab.apply(clients(setting))
        wait_for(lambda: next_hops() == expected, setting)  # noqa: B023
        assert reaches(lab, a, b)
    # A filter that takes the range away is reported.
    rule = IMPORT % to_b
    failed = lab.run("apply", "-f", "-", stdin=rule + clients("filters: [no-b]"), status=1)
    assert f"gets no route to {to_b} of worker2" in failed.err
    wait_for(lambda: next_hops() == (first, ""), "the end of the route")
    assert not reaches(lab, a, b)
    lab.apply(IMPORT % "192.0.2.0/24")
    wait_for(lambda: next_hops() == (first, reflector), "the route")


def test_a_session_over_more_hops_than_allowed(lab: Lab) -> None:
    """With ttlSecurity 1 a session over the router is not established, with 2 it is.

    A packet over two hops has a TTL of 254, and could not have come from farther away.
    """
    text = manifest("calico").replace(", bgp: {}", "") + NO_MESH + REFLECTED
    lab.run("up", "-f", "-", stdin=text + clients("ttlSecurity: 2"), status=1)
    far, near = "Node_172_18_2_2", "Node_172_18_1_3"

    def states() -> list[bool]:
        found = sessions(lab, "node:control-plane")
        return [found.get(name) == "Established" for name in (far, near)]

    wait_for(lambda: states() == [True, True], "sessions over one hop and over two")
    # Both ends send the largest TTL; only one router has been between.
    # The kernel itself resets the second of two connections that both ends have opened.
    segment = "tcp port 179 and src 172.18.2.2 and tcp[tcpflags] & tcp-rst == 0"
    capture = ("timeout", "30", "tcpdump", "-nn", "-v", "-c", "1", "-i", "eth0", segment)
    assert "ttl 254," in lab.run("exec", "node:control-plane", "--", *capture).out
    lab.run("apply", "-f", "-", stdin=clients("ttlSecurity: 1"), status=1)
    wait_for(lambda: states() == [False, True], "the end of the session over two hops")
    other = "Node_172_18_1_2"
    wait_for(lambda: sessions(lab, "node:worker2")[other] != "Established", "the other end")
    assert states() == [False, True]
