"""Names that the kernel sees: short enough, each its own, and readable back where something reads them back."""

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
    """However alike their names are; a name that fits is the port's name."""
    wanted = [pattern.format(number) for number in range(1000)]
    ports = [names.port_name(name) for name in wanted]
    assert len(set(ports)) == 1000
    assert all(0 < len(port) <= names.MAX_LINK_NAME for port in ports)
    assert all(
        port == name
        for name, port in zip(wanted, ports, strict=True)
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
def test_namespaces_are_told_apart(places: list[tuple[str, str, str, str]], lab: str) -> None:
    """Whatever nodes, hosts and pods are called: what a name is made of can be read from it, here and in /run/netns."""
    wanted, found, links = set(), set(), set()
    for kind, namespace, name, uid in places:
        made = {
            "node": names.node_netns(name),
            "ext": names.external_netns(name),
            "pod": names.pod_netns(namespace, name, uid),
        }[kind]
        parts = (kind, namespace, name, uid[:8]) if kind == "pod" else (kind, name)
        assert tuple(made.split("/")) == parts
        link = names.run_netns_name(lab, made)
        assert tuple(link.split("_")) == (lab, *parts[:3])
        wanted.add(parts[:3])
        found.add(made.rpartition("/")[0] if kind == "pod" else made)
        links.add(link)
    assert len(links) == len(found) == len(wanted)


@given(st.integers(1, 253), st.integers(1, 63), st.integers(1, 40))
def test_a_file_is_named_after_any_pod(name: int, namespace: int, lab: int) -> None:
    """A directory holds 255 bytes; the longest names are cut short, and still differ by what was cut off."""
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
def test_a_machine_can_call_itself_so(name: str, more: int) -> None:
    """A hostname has 63 characters at most and ends as a DNS label does; the alias of a link fits the kernel with its final zero."""
    hostname = names.hostname(name + "x" * more)
    assert 0 < len(hostname) <= 63
    assert hostname[-1] not in "-."
    assert len(names.link_alias("cni bridge", name + "x" * more).encode()) < 255


@given(st.sets(st.ip_addresses(v=4), min_size=2, max_size=20))
def test_every_address_has_macs_of_its_own(addresses: set[IPv4Address]) -> None:
    """Both ends of a link: locally administered, not for groups, and all different."""
    macs = [
        mac
        for address in addresses
        for mac in (names.mac_of(str(address)), names.port_mac_of(str(address)))
    ]
    assert len(set(macs)) == len(macs)
    assert all(int(mac[:2], 16) & 3 == 2 and len(mac.split(":")) == 6 for mac in macs)
