"""Names of kernel objects are short enough, unique, and can be parsed where code parses them."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab import names
from kubenetlab.lab.rundir import container_log

labels = st.from_regex(names.LABEL, fullmatch=True).filter(lambda text: len(text) <= 63)
subdomains = st.lists(labels, min_size=1, max_size=3).map(".".join)
uids = st.uuids().map(str)


@pytest.mark.parametrize(
    "pattern",
    [
        "node-in-the-cellar-{}",
        "ip-10-0-0-{}.eu-west-1.compute.internal",
        "{}-is-in-front-of-the-name",
        "rack-longish-name-{}",
    ],
)
def test_a_thousand_nodes_have_a_thousand_ports(pattern: str) -> None:
    """Port names are unique for similar node names; a node name that fits is the port name."""
    node_names = [pattern.format(number) for number in range(1000)]
    ports = [names.port_name(name) for name in node_names]
    assert len(set(ports)) == 1000
    assert all(0 < len(port) <= names.MAX_LINK_NAME for port in ports)
    assert all(
        port == name
        for name, port in zip(node_names, ports, strict=True)
        if len(name) <= names.MAX_LINK_NAME
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["node", "ext", "pod"]), labels, subdomains, uids),
        min_size=1,
        max_size=8,
    ),
    labels,
)
def test_namespace_names_are_unique(subjects: list[tuple[str, str, str, str]], lab: str) -> None:
    """The name of a namespace can be split into its parts, for any names of machines."""
    machines, netns_names, links = set(), set(), set()
    for kind, namespace, name, uid in subjects:
        netns = {
            "node": names.node_netns(name),
            "ext": names.external_netns(name),
            "pod": names.pod_netns(namespace, name, uid),
        }[kind]
        parts = (kind, namespace, name, uid[:8]) if kind == "pod" else (kind, name)
        assert tuple(netns.split("/")) == parts
        link = names.run_netns_name(lab, netns)
        assert tuple(link.split("_")) == (lab, *parts[:3])
        machines.add(parts[:3])
        netns_names.add(netns.rpartition("/")[0] if kind == "pod" else netns)
        links.add(link)
    assert len(links) == len(netns_names) == len(machines)


@given(st.integers(1, 253), st.integers(1, 63), st.integers(1, 40))
def test_a_file_is_named_after_any_pod(name: int, namespace: int, lab: int) -> None:
    """File names have at most 255 bytes; names that were shortened still differ."""
    for last in ("a", "b"):
        netns = names.pod_netns("n" * namespace, "p" * (name - 1) + last, "0123456789")
        for made in (names.run_netns_name("l" * lab, netns), container_log(netns, "c" * 63)):
            assert len(made.encode()) <= 255
            assert "/" not in made
    one, other = (
        container_log(names.pod_netns("n" * 63, "p" * 252 + last, "0"), "c") for last in "ab"
    )
    assert one != other


@given(subdomains, st.integers(0, 300))
def test_hostnames_and_aliases_fit_the_kernel(name: str, more: int) -> None:
    """A hostname has at most 63 characters and ends like a DNS label; an alias fits IFALIASZ."""
    hostname = names.hostname(name + "x" * more)
    assert 0 < len(hostname) <= 63
    assert hostname[-1] not in "-."
    assert len(names.link_alias("cni bridge", name + "x" * more).encode()) < 255


@given(st.sets(st.ip_addresses(v=4), min_size=2, max_size=20))
def test_every_address_has_macs_of_its_own(addresses: set[IPv4Address]) -> None:
    """The MACs of both ends are unicast, locally administered and all different."""
    macs = [
        mac
        for address in addresses
        for mac in (names.mac_of(str(address)), names.port_mac_of(str(address)))
    ]
    assert len(set(macs)) == len(macs)
    assert all(int(mac[:2], 16) & 3 == 2 and len(mac.split(":")) == 6 for mac in macs)
