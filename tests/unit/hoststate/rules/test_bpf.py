"""Services as entries of maps: what is told to the programs, in which order, and how it is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.lab import Decisions
from kubenetlab.datapath import plan
from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import (
    AllowedSource,
    BpfPrograms,
    ClusterIp,
    FamilyConfig,
    Frontend,
    PodLink,
    RemoteRange,
)
from kubenetlab.hoststate.rules.bpf_entries import packed_id, readable
from kubenetlab.hoststate.rules.rulesets import RuleObject, members
from tests.clusters import applied, deployment, running, service, store

LAB = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {kubeProxyMode: ebpf, ipFamily: dual}\n---\n"
NODE = BpfPrograms("node/n", (FamilyConfig("172.18.0.2", "10.244.0.0/16", "10.96.0.0/16"),), "eth0")


class Maps:
    """What the words leave in the maps. A front always leads to endpoints that are there."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, str]] = {}
        self.links: list[str] = []

    def run(self, text: str) -> None:
        words: dict[str, Any] = json.loads(text) if text else {"links": self.links}
        if not words.get("links"):
            self.entries, self.links = {}, []
            return
        self.links = words["links"]
        for name, key, value in words.get("set", ()):
            self.entries.setdefault(name, {})[key] = value
            self.look()
        for name, key in words.get("delete", ()):
            del self.entries[name][key]
            self.look()
        if words.get("is_anew"):
            wanted = {(name, key) for name, key, _ in words["set"]}
            self.entries = {
                name: {key: value for key, value in found.items() if (name, key) in wanted}
                for name, found in self.entries.items()
            }
        self.entries = {name: found for name, found in self.entries.items() if found}

    def look(self) -> None:
        lists = {key[:16] for key in self.entries.get("endpoints", {})}
        for value in self.entries.get("fronts", {}).values():
            everywhere, count = value[:16], int.from_bytes(bytes.fromhex(value[48:56]), "little")
            assert not count or everywhere in lists


def rules(text: str, then: str = "") -> list[Any]:
    cluster = running(store(LAB + text))
    cluster = running(applied(cluster, then)) if then else cluster
    found = plan(cluster, Decisions(pod_layout="onlink", neighbors="dynamic"))["node/worker"]
    return [obj for obj in found.values() if isinstance(obj, RuleObject) and obj.dialect == "bpf"]


STATES = [
    [],
    rules(service("empty")),
    rules(deployment(replicas=1) + service()),
    rules(deployment(replicas=4) + service(type="NodePort") + service("empty")),
    rules(deployment(replicas=4) + service(type="LoadBalancer", externalTrafficPolicy="Local")),
]


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=5))
def test_changing_ends_where_making_anew_ends(way: list[list[Any]]) -> None:
    """Whatever came before; on the way no front leads to a list that is not there; and twice is nothing."""
    maps, anew = Maps(), Maps()
    for old, new in zip([[], *way], way, strict=False):
        maps.run(bpf.update(old, new, bpf.names(old)))
    anew.run(bpf.replacement(way[-1]))
    assert (maps.entries, maps.links) == (anew.entries, anew.links)
    assert bpf.update(way[-1], way[-1]) == ""


def test_a_pod_that_comes_is_a_link_that_gets_the_programs() -> None:
    """Nothing else changes for a pod without a Service."""
    words = json.loads(bpf.update([NODE], [NODE, PodLink("node/n", "veth3")]))
    assert words == {"links": ["eth0", "lo", "veth3"]}


def test_another_choice_of_endpoints_is_another_list() -> None:
    """The front is set to the new one between its coming and the old one's going."""
    lists = [
        bpf.endpoints("default/web/TCP", "Cluster", [("10.244.1.2", port)]) for port in (80, 81)
    ]
    fronts = [
        Frontend("", "10.96.0.7", 80, "TCP", "default/web/TCP", (found.name, 1)) for found in lists
    ]
    words = json.loads(bpf.update([NODE, lists[0], fronts[0]], [NODE, lists[1], fronts[1]]))
    assert [name for name, _, _ in words["set"]] == ["endpoints", "members", "fronts"]
    assert [name for name, _ in words["delete"]] == ["members", "endpoints"]


@pytest.mark.parametrize(
    ("obj", "line"),
    [
        (
            Frontend("", "10.96.0.7", 80, "TCP", "s", ("a", 2)),
            "front 10.96.0.7 80/TCP: Cluster, 2 in ca978112ca1bbdca",
        ),
        (
            Frontend(
                "",
                "0.0.0.0",
                30080,
                "UDP",
                "s",
                ("a", 2),
                ("b", 1),
                60,
                is_outside=True,
                is_local=True,
            ),
            "front node port 0.0.0.0 30080/UDP: Local, 1 in 3e23e8160039594a, of 2 in ca978112ca1bbdca, ClientIP 60s",
        ),
        (
            Frontend("", "2001:db8::1", 80, "TCP", "s", ("a", 2), is_fenced=True),
            "front 2001:db8::1 80/TCP: Cluster, 2 in ca978112ca1bbdca, fenced",
        ),
        (
            BpfPrograms("", (FamilyConfig("172.18.0.2", "", "", ("172.18.0.2",)),), "eth0"),
            "node ports at 172.18.0.2",
        ),
        (ClusterIp("", "fd00:10:96::a"), "front fd00:10:96::a: a cluster IP"),
        (
            Frontend("", "0.0.0.0", 30080, "TCP", "s", ("a", 2), is_outside=True, is_direct=True),
            "front node port 0.0.0.0 30080/TCP: Cluster, 2 in ca978112ca1bbdca, direct",
        ),
        (RemoteRange("", "10.244.2.0/24", "172.18.0.4"), "home of 10.244.2.0/24: 172.18.0.4"),
        (
            RemoteRange("", "fd00:172:18::4/128", "fd00:172:18::4"),
            "home of fd00:172:18::4/128: fd00:172:18::4",
        ),
        (AllowedSource("", "s", "198.51.100.0/24"), "source 043a718774c572bd: 198.51.100.0/24"),
        (AllowedSource("", "s", "2001:db8::/32"), "source 043a718774c572bd: 2001:db8::/32"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_entries_can_be_read(obj: Any, line: str) -> None:
    """In the words of the fields that they were made of."""
    *_, ((name, key), value) = obj.entries()
    assert readable(name, key, value) == line


def test_what_differs_is_named() -> None:
    """A link without its program, an entry that is missing, changed, or nobody's."""
    front, ip = Frontend("", "10.96.0.7", 80, "TCP", "s", ("a", 0)), ClusterIp("", "10.96.0.7")
    wanted: list[Any] = [NODE, front, ip, PodLink("node/n", "veth0")]
    maps: dict[str, dict[str, str]] = {}
    for obj in wanted:
        for (name, key), value in obj.entries():
            maps.setdefault(name, {})[key.hex()] = value.hex()
    links = {"eth0": ["coming", "going"], "lo": ["going"], "veth0": ["coming", "going"]}
    assert list(bpf.differences(wanted, {"links": links, "maps": maps})) == []
    (own,) = (key.hex() for (_, key), _ in front.entries())
    changed = {
        **maps,
        "fronts": {name: value for name, value in maps["fronts"].items() if name != own},
        "sources": {"00": "01"},
    }
    text = "10.96.0.7 80/TCP of s, Cluster: 0 endpoints in a, Local: none"
    assert [
        found.line
        for found in bpf.differences(
            wanted, {"links": {**links, "veth0": ["going"]}, "maps": changed}
        )
    ] == [
        "~ bpf programs on veth0: coming, going    (was: veth0: going)",
        f"+ bpf map fronts: {text}",
        "- bpf map sources: 00 = 01",
    ]
    former = Frontend("", "10.96.0.7", 80, "TCP", "s", ("former list", 3))
    (stale,) = (value.hex() for _, value in former.entries())
    (found,) = bpf.differences(
        wanted, {"links": links, "maps": {**maps, "fronts": {**maps["fronts"], own: stale}}}
    )
    assert found.desired == text
    assert (
        found.observed
        == f"10.96.0.7 80/TCP of s, Cluster: 3 endpoints in s Cluster {packed_id('former list').hex()}, Local: none"
    )
    broken = {**maps, "fronts": {**maps["fronts"], own: "00"}}
    assert [found.line for found in bpf.differences(wanted, {"links": links, "maps": broken})] == [
        f"~ bpf map fronts: {text}    (was: {own} = 00)"
    ]


@pytest.mark.parametrize(
    ("wanted", "doors"),
    [
        (None, ("172.18.0.3", "fd00:172:18::3")),
        ("[primary]", ("172.18.0.3", "fd00:172:18::3")),
        ("[]", ("172.18.0.3", "10.244.1.1", "fd00:172:18::3", "fd00:10:244:1::1")),
        ("[10.244.0.0/16]", ("10.244.1.1",)),
        ("[172.18.0.0/16, '::/0']", ("172.18.0.3", "fd00:172:18::3", "fd00:10:244:1::1")),
    ],
    ids=str,
)
def test_node_ports_answer_at_the_addresses_that_are_asked_for(
    wanted: str | None, doors: tuple[str, ...]
) -> None:
    """By default the node's own; without any at all that it has."""
    options = f"{{type: ebpf, nodePortAddresses: {wanted}}}" if wanted else "ebpf"
    cluster = running(
        store(
            LAB.replace("kubeProxyMode: ebpf", f"kubeProxyMode: {options}")
            + service(type="NodePort")
        )
    )
    found = plan(cluster, Decisions(pod_layout="onlink", neighbors="dynamic"))[
        "node/worker"
    ].values()
    (programs,) = (obj for obj in found if isinstance(obj, BpfPrograms))
    assert tuple(door for one in programs.ranges for door in one.doors) == doors


DIRECT = LAB.replace("kubeProxyMode: ebpf", "kubeProxyMode: {type: ebpf, dsr: true}")


def test_direct_return_is_for_what_comes_from_outside_by_the_policy_cluster() -> None:
    """And nodes know then where the addresses of the others are."""
    balanced = service("near", type="LoadBalancer", externalTrafficPolicy="Local")
    cluster = running(
        store(
            DIRECT + deployment() + service(type="NodePort", externalIPs=["192.0.2.7"]) + balanced
        )
    )
    found = plan(cluster, Decisions(pod_layout="onlink", neighbors="dynamic"))[
        "node/worker"
    ].values()
    rules = [obj for obj in found if isinstance(obj, RuleObject) and obj.dialect == "bpf"]
    fronts = [obj for obj in members(rules) if isinstance(obj, Frontend)]
    assert {
        (front.service.partition("/TCP")[0], front.address) for front in fronts if front.is_direct
    } == {
        ("default/web", "0.0.0.0"),
        ("default/web", "192.0.2.7"),
    }
    assert {(obj.cidr, obj.node) for obj in rules if isinstance(obj, RemoteRange)} == {
        ("10.244.0.0/24", "172.18.0.2"),
        ("172.18.0.2/32", "172.18.0.2"),
        ("10.244.2.0/24", "172.18.0.4"),
        ("172.18.0.4/32", "172.18.0.4"),
        ("fd00:10:244::/64", "fd00:172:18::2"),
        ("fd00:172:18::2/128", "fd00:172:18::2"),
        ("fd00:10:244:2::/64", "fd00:172:18::4"),
        ("fd00:172:18::4/128", "fd00:172:18::4"),
    }
    assert not any(isinstance(obj, RemoteRange) for obj in STATES[-1])


def test_a_refusal_names_the_object_whose_entry_it_is() -> None:
    """By the map and the key."""
    front = Frontend("", "10.96.0.7", 80, "TCP", "s", ("a", 0))
    ((_, key), _) = next(iter(front.entries()))
    assert bpf.failed_object(f"fronts {key.hex()}: No space left on device", [front]) == (
        front,
        front,
    )
