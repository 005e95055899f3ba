"""Calico's IPAM: pools, blocks of nodes, requested addresses, and blocks that are given back."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.core import Event, Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.plugins.allocations import AddressBlock
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.admission.ip_pools import pool_findings
from kubenetlab.controllers.nodes.ipam.blocks import Blocks
from kubenetlab.diagnostics.routes import check_ip_pools
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.diagnostics.unenforced import check_unenforced
from kubenetlab.errors import ManifestError
from tests.clusters import applied, deployment, pod, problems_of, settled, store, without_pod
from tests.examples import examples

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, labels: {zone: a}}, {role: worker}]
networking: {ipFamily: %s, cni: %s}
---
"""
CALICO = CLUSTER % ("ipv4", "calico")


def pool(name: str, cidr: str, **spec: str) -> str:
    fields = "".join(f", {key}: {value}" for key, value in spec.items())
    return (
        "apiVersion: projectcalico.org/v3\nkind: IPPool\n"
        f"metadata: {{name: {name}}}\nspec: {{cidr: '{cidr}'{fields}}}\n---\n"
    )


def addresses(cluster: Cluster, name: str, namespace: str = "default") -> tuple[str, ...]:
    attachment = cluster.get(Attachment, namespace, name)
    return attachment.addresses if attachment is not None else ()


def messages(cluster: Cluster) -> list[str]:
    return [
        event.message for event in cluster.all(Event) if event.reason == "FailedCreatePodSandBox"
    ]


def on(node: str) -> str:
    return f", nodeName: {node}"


def test_the_first_pool_is_the_pod_range_of_each_family() -> None:
    """A cluster with a pool of its own gets none for that family."""
    cluster = store(CLUSTER % ("dual", "{type: calico, blockSize: 28, natOutgoing: false}"))
    pools = {pool.name: pool.spec for pool in cluster.all(IPPool)}
    assert {name: spec.cidr for name, spec in pools.items()} == {
        "default-ipv4-ippool": "10.244.0.0/16",
        "default-ipv6-ippool": "fd00:10:244::/56",
    }
    assert [spec.block_length for spec in pools.values()] == [28, 122]
    assert not any(spec.nat_outgoing for spec in pools.values())
    own = store(CALICO + pool("own", "10.9.0.0/16"))
    assert [pool.name for pool in own.all(IPPool)] == ["own"]


def test_a_deleted_pool_is_not_installed_again() -> None:
    cluster = store(CALICO)
    (first,) = cluster.all(IPPool)
    cluster = settled(cluster.with_changes([deletion(first)]))
    assert applied(cluster, pod("a")).all(IPPool) == ()


def test_pods_of_a_node_have_addresses_of_its_blocks() -> None:
    """A second block is taken when the first one is full; tunnels have addresses, too."""
    cluster = store(
        CLUSTER % ("ipv4", "{type: calico, backend: vxlan, blockSize: 30}")
        + "".join(pod(f"p{number}", on("worker")) for number in range(6))
    )
    blocks = [block for block in cluster.all(AddressBlock) if block.node == "worker"]
    assert len(blocks) == 2
    assert [len(block.tunnels) for block in blocks] == [1, 0]
    tunnels = [text for block in blocks for text in block.tunnels.values()]
    used = [*tunnels, *(text for n in range(6) for text in addresses(cluster, f"p{n}"))]
    assert Counter(
        block.cidr
        for text in used
        for block in blocks
        if ip_address(text) in ip_network(block.cidr)
    ) == {blocks[0].cidr: 4, blocks[1].cidr: 3}
    (worker,) = [node for node in cluster.all(Node) if node.name == "worker"]
    (ranges,) = Blocks.ranges(cluster, worker)
    assert ranges.cidrs == tuple(block.cidr for block in blocks)
    assert ranges.tunnels == {"vxlan": tunnels[0]}


def test_pools_are_chosen_by_annotation_and_by_node() -> None:
    """The pod's own annotation comes before that of its namespace."""
    pools = (
        pool("main", "10.1.0.0/24")
        + pool("zone-a", "10.2.0.0/24", nodeSelector='zone == "a"', assignmentMode="Manual")
        + pool("shop", "10.3.0.0/24", assignmentMode="Manual")
    )
    namespace = (
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: "
        "{cni.projectcalico.org/ipv4pools: '[\"shop\"]'}}\n---\n"
    )
    chosen = ", annotations: {cni.projectcalico.org/ipv4pools: '[\"%s\"]'}"
    cluster = store(
        CALICO
        + pools
        + namespace
        + pod("a")
        + pod("b", on("worker"), meta=chosen % "zone-a")
        + pod("c", on("worker2"), meta=chosen % "zone-a")
        + pod("d", meta=", namespace: shop")
        + pod("e", meta=", namespace: shop" + chosen % "10.1.0.0/24")
        + pod("f", meta=chosen % "nowhere")
    )
    found = {
        name: addresses(cluster, name, "shop" if name in "de" else "default") for name in "abcdef"
    }
    prefixes = {name: texts[0].split(".")[1] if texts else "" for name, texts in found.items()}
    assert prefixes == {"a": "1", "b": "2", "c": "", "d": "3", "e": "1", "f": ""}
    assert any("no configured Calico pools for node worker2" in text for text in messages(cluster))
    assert any(
        "no enabled pool nowhere; there are: main, shop" in text for text in messages(cluster)
    )


def test_a_requested_address_may_be_in_a_block_of_another_node() -> None:
    """The node that has the pod announces the single address."""
    cluster = store(CALICO + pod("a", on("worker")))
    (block,) = [block for block in cluster.all(AddressBlock) if block.node == "worker"]
    wanted = str(ip_network(block.cidr)[40])
    request = ", annotations: {cni.projectcalico.org/ipAddrs: '[\"%s\"]'}"
    cluster = applied(cluster, pod("b", on("worker2"), meta=request % wanted))
    assert addresses(cluster, "b") == (wanted,)
    (worker2,) = [node for node in cluster.all(Node) if node.name == "worker2"]
    assert f"{wanted}/32" in Blocks.ranges(cluster, worker2)[0].cidrs
    cluster = applied(cluster, pod("c", meta=request % wanted))
    assert addresses(cluster, "c") == ()
    assert f"requested address {wanted} is in use by pod default/b" in messages(cluster)[-1]
    cluster = applied(cluster, pod("d", meta=request % "192.0.2.1"))
    assert "192.0.2.1 is in no IPPool; there are: default-ipv4-ippool" in messages(cluster)[-1]


def test_a_full_pool_is_shared_and_then_exhausted() -> None:
    """Without a free block, nodes use single addresses of others; nine pods want eight."""
    cluster = store(
        CALICO
        + pool("tiny", "10.7.0.0/29", blockSize="30")
        + "".join(pod(f"p{number}", on("worker")) for number in range(6))
        + pod("q", on("worker2"))
    )
    blocks = {block.cidr: block for block in cluster.all(AddressBlock)}
    assert len(blocks) == 2
    used = [text for attachment in cluster.all(Attachment) for text in attachment.addresses]
    assert len(used) == len(set(used)) == 8
    assert any(
        "Assigned 0 out of 1 requested IPv4 addresses; No IPs available in pools: tiny" in text
        for text in messages(cluster)
    )


def test_blocks_of_a_removed_node_are_given_back() -> None:
    cluster = store(CALICO + deployment("web", 6))
    assert any(block.node == "worker2" for block in cluster.all(AddressBlock))
    smaller = CALICO.replace(", {role: worker}]", "]")
    cluster = applied(cluster, smaller)
    assert {block.node for block in cluster.all(AddressBlock)} <= {"control-plane", "worker"}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{cidr: 10.0.0.0/33}", "expected a range of addresses"),
        ("{cidr: 10.0.0.0/16, blockSize: 12}", "prefix length from 20 to 32"),
        ("{cidr: 10.0.0.0/27, blockSize: 26}", "prefix length from 27 to 32"),
        ("{cidr: 'fd00::/64', ipipMode: Always}", "only IPv4"),
        ("{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet}", "cannot be combined"),
        ("{cidr: 10.0.0.0/16, nodeSelector: zone = 'a'}", "expected an operator after the label"),
    ],
)
def test_invalid_pools_are_refused(spec: str, problem: str) -> None:
    text = (
        f"apiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
    assert any(problem in str(found) for found in problems_of(text))


@pytest.mark.parametrize("value", ["10.0.0.1", "[1]", "[]", '["10.0.0.300"]'])
def test_an_invalid_list_of_addresses_is_refused(value: str) -> None:
    text = pod("a", meta=f", annotations: {{cni.projectcalico.org/ipAddrs: '{value}'}}")
    assert any("expected a list of addresses" in str(found) for found in problems_of(text))


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32))
def test_no_address_is_used_twice_and_each_is_in_a_block(seed: int) -> None:
    """Pods come and go in random order on three nodes with a pool of sixteen addresses."""
    random = Random(seed)
    cluster = store(CALICO + pool("small", "10.7.0.0/28", blockSize="30"))
    alive: dict[str, None] = {}
    for number in range(20):
        if alive and random.random() < 0.4:
            name = random.choice(sorted(alive))
            del alive[name]
            attachment = cluster.get(Attachment, "default", name)
            changes = [change for change in (attachment,) if change is not None]
            cluster = cluster.with_changes(
                [*map(deletion, changes), *map(deletion, cluster.select("default", {"app": name}))]
            )
        else:
            name = f"p{number}"
            alive[name] = None
            node = random.choice(("control-plane", "worker", "worker2"))
            cluster = applied(cluster, pod(name, on(node), meta=f", labels: {{app: {name}}}"))
        cluster = settled(cluster)
        used = [text for entry in cluster.all(Attachment) for text in entry.addresses]
        used += [text for block in cluster.all(AddressBlock) for text in block.tunnels.values()]
        assert len(used) == len(set(used))
        blocks = [ip_network(block.cidr) for block in cluster.all(AddressBlock)]
        assert len(blocks) == len(set(blocks)) <= 4
        for text in used:
            assert any(ip_address(text) in block for block in blocks), text
        for place in cluster.all(Node):
            ranges = [ip_network(text) for text in Blocks.ranges(cluster, place)[0].cidrs]
            for entry in cluster.all(Attachment):
                if entry.node == place.name:
                    assert any(ip_address(entry.addresses[0]) in cidr for cidr in ranges)


@pytest.mark.parametrize(
    ("cidr", "owner"),
    [
        ("172.18.128.0/17", "172.18.0.0/16, the range of the nodes"),
        ("10.0.0.0/8", "10.96.0.0/16, the range of Services"),
        ("10.244.7.0/24", "10.244.0.0/16, the range of IPPool default-ipv4-ippool"),
    ],
)
def test_a_pool_that_overlaps_another_range_is_refused(cidr: str, owner: str) -> None:
    with pytest.raises(ManifestError, match=owner):
        applied(store(CALICO), pool("x", cidr))


@pytest.mark.parametrize(
    ("family", "cidr", "version"),
    [("ipv4", "fd00:7::/64", 6), ("ipv6", "10.7.0.0/16", 4), ("dual", "fd00:7::/64", 0)],
)
def test_a_pool_of_a_family_that_pods_do_not_have_is_unused(
    family: str, cidr: str, version: int
) -> None:
    """A warning says so; upstream accepts such a pool."""
    before = store(CLUSTER % (family, "calico"))
    after = applied(before, pool("x", cidr))
    findings = [finding for _, finding in pool_findings(before, after, after.all(IPPool))]
    assert [finding.message for finding in findings] == [
        f"unused: pods of this cluster have no IPv{version} addresses "
        f"(networking.ipFamily: {family})"
    ] * bool(version)
    assert all(finding.is_warning for finding in findings)


def test_released_addresses_are_reused_last() -> None:
    """A pod that waits for an address of a full pool gets the one that is released."""
    tiny = pool("tiny", "10.7.0.0/29", blockSize="29")
    cluster = store(CALICO + tiny + pod("a", on("worker")) + pod("b", on("worker")))
    (first,), (second,) = addresses(cluster, "a"), addresses(cluster, "b")
    cluster = without_pod(cluster, "a")
    cluster = applied(cluster, pod("c", on("worker")))
    assert addresses(cluster, "c")[0] not in (first, second)
    for name in "defghi":
        cluster = applied(cluster, pod(name, on("worker")))
    waiting = [name for name in "defghi" if not addresses(cluster, name)]
    assert waiting
    assert "No IPs available in pools: tiny" in messages(cluster)[-1]
    freed = addresses(cluster, "c")
    cluster = without_pod(cluster, "c")
    assert addresses(cluster, waiting[0]) == freed


def test_the_range_of_a_pool_cannot_change() -> None:
    cluster = store(CALICO + pool("x", "10.1.0.0/24"))
    with pytest.raises(ManifestError, match=r"cidr.*cannot change; it is 10\.1\.0\.0/24"):
        applied(cluster, pool("x", "10.2.0.0/24"))
    applied(cluster, pool("x", "10.1.0.0/24", natOutgoing="true"))


@pytest.mark.parametrize(
    ("backend", "spec", "is_reported"),
    [
        ("bgp", {}, False),
        ("vxlan", {}, True),
        ("vxlan", {"vxlanMode": "CrossSubnet"}, False),
        ("ipip", {}, False),
    ],
)
def test_a_pool_without_routes_is_reported(
    backend: str, spec: dict[str, str], is_reported: bool
) -> None:
    """The diagnostic concerns the connections of the pool's pods."""
    cni = f"{{type: calico, backend: {backend}}}"
    cluster = store(CLUSTER % ("ipv4", cni) + pool("own", "10.9.0.0/24", **spec) + pod("a"))
    found = list(check_ip_pools(cluster, Templates(cluster, ())))
    assert [diagnostic.name for diagnostic in found] == (["own"] if is_reported else [])
    for diagnostic in found:
        assert "default/a" in diagnostic.scope.into


@pytest.mark.parametrize(("cni", "is_reported"), [("calico", False), ("flannel", True)])
def test_a_pool_is_reported_where_no_plugin_uses_it(cni: str, is_reported: bool) -> None:
    cluster = store(CLUSTER % ("ipv4", cni) + pool("x", "10.1.0.0/24"))
    assert bool(list(check_unenforced(cluster, Templates(cluster, ())))) is is_reported
