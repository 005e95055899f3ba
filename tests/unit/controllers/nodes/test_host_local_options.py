"""Options of host-local in CNI modes: gateway and range of pods, and mistakes in them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.core import Event, Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.plugins.host_local import HostLocal, host_local_options
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.cli.input.mode_options import format_mode_option, parse_mode
from kubenetlab.controllers.nodes.ipam import gateways, pod_addresses
from kubenetlab.errors import ManifestError
from kubenetlab.lab.apiserver.document_admission import admit_documents
from tests.clusters import NOW, applied, deployment, pod, pod_named, problems_of, settled, store


def cluster_of(ipam: str, cni: str = "bridge", networking: str = "", nodes: str = "") -> str:
    """Return a cluster with one node, and the options of its CNI mode.

    networking, nodes: further fields of the Cluster document, and of the node.
    """
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane{nodes}}}]\n"
        f"networking: {{cni: {{type: {cni}, ipam: {ipam}}}{networking}}}\n---\n"
    )


def numbers(cluster: Cluster, family: int = 0) -> list[int]:
    """Return the last bytes of all pods' addresses, in order."""
    return sorted(
        ip_address(attachment.addresses[family]).packed[-1]
        for attachment in cluster.all(Attachment)
    )


def messages(cluster: Cluster) -> set[str]:
    """Return the messages of pods without addresses, without their beginning."""
    return {
        event.message.partition("(add): ")[2]
        for event in cluster.all(Event)
        if event.reason == "FailedCreatePodSandBox"
    }


@pytest.mark.parametrize("cni", ["bridge", "ptp"])
@pytest.mark.parametrize(
    ("ipam", "expected", "gateway"),
    [
        ("{}", range(2, 15), 1),
        ("{gateway: last}", range(1, 14), 14),
        ("{gateway: -3}", (*range(1, 13), 14), 13),
        ("{rangeStart: 6}", range(6, 15), 1),
        ("{rangeEnd: 6}", range(2, 7), 1),
        ("{rangeStart: -4, rangeEnd: -3, gateway: 9}", (12, 13), 9),
    ],
)
def test_pods_get_the_addresses_of_the_range(
    cni: str, ipam: str, expected: range, gateway: int
) -> None:
    """The same numbers in both families; further pods have an event with the range."""
    sizes = ", nodeCIDRMaskSizeIPv4: 28, nodeCIDRMaskSizeIPv6: 124, ipFamily: dual"
    cluster = store(cluster_of(ipam, cni, sizes) + deployment(replicas=20))
    assert numbers(cluster) == numbers(cluster, 1) == list(expected)
    (node,) = cluster.all(Node)
    assert gateways(cluster, node) == [f"10.244.0.{gateway}", f"fd00:10:244::{gateway:x}"]
    ends = f"10.244.0.{expected[0]}-10.244.0.{expected[-1]}"
    assert pod_addresses(cluster, node)[0] == ends
    (message,) = messages(cluster)
    assert "no IP addresses available in range set: 10.244.0." in message


def test_nodes_without_a_plugin_have_no_addresses_for_pods() -> None:
    """The controller manager assigns a podCIDR nevertheless; nothing uses it."""
    cluster = store(cluster_of("{}", "none").replace(", ipam: {}", ""))
    (node,) = cluster.all(Node)
    assert node.spec.pod_cidrs
    assert gateways(cluster, node) == []
    assert pod_addresses(cluster, node) == []


@given(
    prefix=st.integers(20, 30),
    start=st.integers(-20, 20),
    end=st.integers(-20, 20),
    gateway=st.one_of(st.sampled_from(["first", "last"]), st.integers(-20, 20)),
)
def test_valid_options_leave_an_address_for_pods(
    prefix: int, start: int, end: int, gateway: Literal["first", "last"] | int
) -> None:
    """Numbers from the end are indices of Python; the others are reported."""
    network, options = ip_network(f"10.1.0.0/{prefix}"), HostLocal(start, end, gateway)
    usable = list(network.hosts())
    by_index = dict(enumerate(network)) | dict(enumerate(network, -network.num_addresses))
    chosen = {"rangeStart": start, "rangeEnd": end, "gateway": options.gateway_number}
    outside = {name for name, number in chosen.items() if by_index.get(number) not in usable}
    faults = dict(options.faults(network))
    if outside:
        assert set(faults) == outside
        return
    first, last = by_index[start], by_index[end]
    pods = [
        address
        for address in usable
        if first <= address <= last and address != by_index[options.gateway_number]
    ]
    assert bool(faults) == (not pods)
    assert (options.first(network), options.last(network)) == (
        int(first) - int(network[0]),
        int(last) - int(network[0]),
    )


@pytest.mark.parametrize(
    ("ipam", "message"),
    [
        ("{rangeStart: 0}", "expected a number from 1 to 254, or from -255 to -2, in a range of"),
        ("{rangeEnd: 255}", "expected a number from 1 to 254, or from -255 to -2, in a range of"),
        ("{gateway: -1}", "expected a number from 1 to 254, or from -255 to -2, in a range of"),
        ("{rangeStart: 9, rangeEnd: 8}", "expected at least rangeStart, which is 9 in a range of"),
        ("{rangeStart: 254, gateway: last}", "254 is the gateway: no address is left for pods"),
        ("{gateway: middle}", 'expected the number of an address, first or last, found "middle"'),
        ("{gatway: 1}", "unknown field; did you mean gateway?"),
        ("cluster-pool", 'expected a mapping, found "cluster-pool"'),
    ],
)
@pytest.mark.parametrize("cni", ["bridge", "ptp"])
def test_mistakes_are_reported(cni: str, ipam: str, message: str) -> None:
    (problem,) = problems_of(cluster_of(ipam, cni), strict=True)
    assert problem.message.startswith(message)


def test_the_range_is_that_of_the_node() -> None:
    """The limits depend on the allocated length, or on the node's own podCIDRs."""
    half = "{rangeStart: 128}"
    assert not problems_of(cluster_of(half))
    (problem,) = problems_of(cluster_of(half, networking=", nodeCIDRMaskSizeIPv4: 25"))
    assert "in a range of /25, found 128" in problem.message
    assert "networking.nodeCIDRMaskSizeIPv4" in problem.hints[0]
    assert not problems_of(
        cluster_of(
            half,
            networking=", nodeCIDRMaskSizeIPv4: 25",
            nodes=", podCIDRs: [10.244.4.0/22]",
        )
    )
    (problem,) = problems_of(cluster_of(half, nodes=", podCIDRs: [10.244.4.0/26]"))
    assert problem.message == (
        "10.244.4.0/26 does not fit the option ipam.rangeStart of the CNI mode: "
        "expected a number from 1 to 62, or from -63 to -2, in a range of /26, found 128"
    )


def test_a_node_document_with_a_small_range_is_refused() -> None:
    """In a new lab, and when the node is added to a running one."""
    text = cluster_of("{gateway: 40}")
    grown = text.replace("control-plane}]", "control-plane}, {role: worker}]")
    small = "apiVersion: v1\nkind: Node\nmetadata: {name: worker}\nspec: {podCIDR: 10.244.9.0/27}\n"
    message = r"10\.244\.9\.0/27 does not fit the option ipam\.gateway of the CNI mode"
    with pytest.raises(ManifestError, match=message):
        store(grown + small)
    with pytest.raises((ManifestError, AssertionError), match=message):
        applied(store(text), grown + small)


def test_a_pool_must_not_contain_the_gateway() -> None:
    pools = ", ipam: {pools: [{name: spare, first: 250, last: 254}]}"
    assert not problems_of(cluster_of("{}", networking=pools))
    (problem,) = problems_of(cluster_of("{gateway: last}", networking=pools))
    assert problem.message == "the gateway, number 254, belongs to pool spare (250 to 254)"


def test_pools_may_have_addresses_outside_of_the_range() -> None:
    """Pods get them from the pool, and by request; other addresses outside of the range not."""
    pools = ", ipam: {pools: [{name: spare, first: 200, last: 209}]}"

    def requesting(name: str, number: int) -> str:
        return pod(name, meta=f', annotations: {{kubenetlab.dev/addresses: "10.244.0.{number}"}}')

    cluster = store(
        cluster_of("{rangeStart: 10, rangeEnd: 99, gateway: 50}", networking=pools)
        + pod("a", meta=", annotations: {kubenetlab.dev/pool: spare}")
        + requesting("b", 205)
        + requesting("c", 9)
        + requesting("d", 50)
    )
    for name, number in (("a", 200), ("b", 205)):
        attachment = cluster.get(Attachment, "default", name)
        assert attachment is not None
        assert attachment.addresses == (f"10.244.0.{number}",)
    assert messages(cluster) == {
        "requested address 10.244.0.9 is not one of 10.244.0.10-10.244.0.99, the pods' on node "
        "control-plane",
        "requested address 10.244.0.50 is the gateway on node control-plane",
    }
    assert pod_named(cluster, "c").status.phase == "Pending"


def test_another_range_gives_pods_other_addresses() -> None:
    """The first address comes first, although the cycle was elsewhere before."""
    before = store(cluster_of("{}") + deployment(replicas=30))
    document = {
        "apiVersion": "kubenetlab.dev/v1alpha1",
        "kind": "Cluster",
        "nodes": [{"role": "control-plane"}],
        "networking": {"cni": {"type": "bridge", "ipam": {"rangeStart": 100}}},
    }
    admission = admit_documents(before, NOW, [document])
    assert not admission.findings
    assert admission.outcomes[0].changes == ("networking.cni bridge → bridge,ipam.rangeStart=100",)
    assert all(attachment.is_stale for attachment in admission.cluster.all(Attachment))
    gone = [deletion(attachment) for attachment in admission.cluster.all(Attachment)]
    assert numbers(settled(admission.cluster.with_changes(gone))) == list(range(100, 132))


def test_modes_without_the_options_have_the_defaults() -> None:
    for cni in ("flannel", "{type: cilium, ipam: cluster-pool}", "weave"):
        text = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{cni: {cni}}}\n"
        assert host_local_options(store(text).config.networking) == HostLocal()
    (problem,) = problems_of(cluster_of("{gateway: last}", "flannel"), strict=True)
    assert problem.message.startswith("unknown field")


def test_numbers_from_the_end_on_the_command_line() -> None:
    """As lists and mappings, they are what the manual page prints."""
    mode = parse_mode("bridge,ipam.rangeEnd=-10,ipam.gateway=last")
    assert mode == {"type": "bridge", "ipam": {"rangeEnd": -10, "gateway": "last"}}
    assert format_mode_option("ipam", mode["ipam"]) == "ipam.rangeEnd=-10,ipam.gateway=last"
