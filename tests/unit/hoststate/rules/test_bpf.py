"""Services as map entries: updates, their order, and the text of entries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from kubenetlab.hoststate.rules.bpf_entries import describe_entry, packed_id
from kubenetlab.hoststate.rules.rulesets import RuleObject, members
from tests.clusters import applied, decided, deployment, running, service, store

LAB = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {kubeProxyMode: ebpf, ipFamily: dual}\n---\n"
)
NODE = BpfPrograms("node/n", (FamilyConfig("172.18.0.2", "10.244.0.0/16", "10.96.0.0/16"),), "eth0")


class Maps:
    """Map entries after transactions. Each update checks that frontends refer to existing lists."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, str]] = {}
        self.links: list[str] = []

    def run(self, text: str) -> None:
        update: dict[str, Any] = json.loads(text) if text else {"links": self.links}
        if update.get("keeps_links"):
            update["links"] = self.links
        if not update.get("links"):
            self.entries, self.links = {}, []
            return
        self.links = update["links"]
        for name, key, value in update.get("set", ()):
            self.entries.setdefault(name, {})[key] = value
            self.check_lists()
        for name, key in update.get("delete", ()):
            del self.entries[name][key]
            self.check_lists()
        if update.get("is_anew"):
            kept = {(name, key) for name, key, _ in update["set"]}
            self.entries = {
                name: {key: value for key, value in entries.items() if (name, key) in kept}
                for name, entries in self.entries.items()
            }
        self.entries = {name: entries for name, entries in self.entries.items() if entries}

    def check_lists(self) -> None:
        lists = {key[:16] for key in self.entries.get("endpoints", {})}
        for value in self.entries.get("fronts", {}).values():
            endpoint_list, count = value[:16], int.from_bytes(bytes.fromhex(value[48:56]), "little")
            assert not count or endpoint_list in lists


def rules(text: str, then: str = "") -> list[Any]:
    cluster = running(store(LAB + text))
    cluster = running(applied(cluster, then)) if then else cluster
    objects = plan(cluster, decided("onlink", "dynamic"))["node/worker"]
    return [obj for obj in objects.values() if isinstance(obj, RuleObject) and obj.backend == "bpf"]


STATES = [
    [],
    rules(service("empty")),
    rules(deployment(replicas=1) + service()),
    rules(deployment(replicas=4) + service(type="NodePort") + service("empty")),
    rules(deployment(replicas=4) + service(type="LoadBalancer", externalTrafficPolicy="Local")),
]


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=5))
def test_updates_lead_to_the_same_maps_as_a_replacement(way: list[list[Any]]) -> None:
    """No frontend ever refers to a missing list, and a repeated update is empty."""
    maps, anew = Maps(), Maps()
    for old, new in zip([[], *way], way, strict=False):
        maps.run(bpf.update(old, new, bpf.names(old)))
    anew.run(bpf.replacement(way[-1]))
    assert (maps.entries, maps.links) == (anew.entries, anew.links)
    assert bpf.update(way[-1], way[-1]) == ""


def test_a_new_pod_adds_a_link_for_the_programs() -> None:
    """A pod without a Service changes nothing else."""
    words = json.loads(bpf.update([NODE], [NODE, PodLink("node/n", "veth3")]))
    assert words == {"links": ["eth0", "lo", "veth3"]}


def test_changed_endpoints_are_a_new_list() -> None:
    """The new list is set before the frontend, and the old list is deleted after it."""
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
                is_external=True,
                is_local=True,
            ),
            (
                "front node port 0.0.0.0 30080/UDP: Local, 1 in 3e23e8160039594a, of 2 in "
                "ca978112ca1bbdca, ClientIP 60s"
            ),
        ),
        (
            Frontend("", "2001:db8::1", 80, "TCP", "s", ("a", 2), has_source_ranges=True),
            "front 2001:db8::1 80/TCP: Cluster, 2 in ca978112ca1bbdca, fenced",
        ),
        (
            BpfPrograms("", (FamilyConfig("172.18.0.2", "", "", ("172.18.0.2",)),), "eth0"),
            "node ports at 172.18.0.2",
        ),
        (ClusterIp("", "fd00:10:96::a"), "front fd00:10:96::a: a cluster IP"),
        (
            Frontend("", "0.0.0.0", 30080, "TCP", "s", ("a", 2), is_external=True, is_direct=True),
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
def test_map_entries_are_readable(obj: Any, line: str) -> None:
    """The text contains the fields of the object."""
    *_, ((name, key), value) = obj.entries()
    assert describe_entry(name, key, value) == line


def test_differences_name_links_and_entries() -> None:
    """Differences are missing programs, and missing, changed or additional entries."""
    front, ip = Frontend("", "10.96.0.7", 80, "TCP", "s", ("a", 0)), ClusterIp("", "10.96.0.7")
    desired: list[Any] = [NODE, front, ip, PodLink("node/n", "veth0")]
    maps: dict[str, dict[str, str]] = {}
    for obj in desired:
        for (name, key), value in obj.entries():
            maps.setdefault(name, {})[key.hex()] = value.hex()
    links = {"eth0": ["coming", "going"], "lo": ["going"], "veth0": ["coming", "going"]}
    assert list(bpf.differences(desired, {"links": links, "maps": maps})) == []
    (key_of_front,) = (key.hex() for (_, key), _ in front.entries())
    changed = {
        **maps,
        "fronts": {name: value for name, value in maps["fronts"].items() if name != key_of_front},
        "sources": {"00": "01"},
    }
    text = "10.96.0.7 80/TCP of s, Cluster: 0 endpoints in a, Local: none"
    assert [
        difference.line
        for difference in bpf.differences(
            desired, {"links": {**links, "veth0": ["going"]}, "maps": changed}
        )
    ] == [
        "~ bpf programs on veth0: coming, going    (was: veth0: going)",
        f"+ bpf map fronts: {text}",
        "- bpf map sources: 00 = 01",
    ]
    former = Frontend("", "10.96.0.7", 80, "TCP", "s", ("former list", 3))
    (stale,) = (value.hex() for _, value in former.entries())
    (difference,) = bpf.differences(
        desired,
        {"links": links, "maps": {**maps, "fronts": {**maps["fronts"], key_of_front: stale}}},
    )
    assert difference.desired == text
    assert difference.observed == (
        f"10.96.0.7 80/TCP of s, Cluster: 3 endpoints in s Cluster "
        f"{packed_id('former list').hex()}, Local: none"
    )
    broken = {**maps, "fronts": {**maps["fronts"], key_of_front: "00"}}
    assert [
        difference.line for difference in bpf.differences(desired, {"links": links, "maps": broken})
    ] == [f"~ bpf map fronts: {text}    (was: {key_of_front} = 00)"]


@pytest.mark.parametrize(
    ("option", "doors"),
    [
        (None, ("172.18.0.3", "fd00:172:18::3")),
        ("[primary]", ("172.18.0.3", "fd00:172:18::3")),
        ("[]", ("172.18.0.3", "10.244.1.1", "fd00:172:18::3", "fd00:10:244:1::1")),
        ("[10.244.0.0/16]", ("10.244.1.1",)),
        ("[172.18.0.0/16, '::/0']", ("172.18.0.3", "fd00:172:18::3", "fd00:10:244:1::1")),
    ],
    ids=str,
)
def test_node_ports_have_the_configured_addresses(
    option: str | None, doors: tuple[str, ...]
) -> None:
    """The default is the node's primary addresses; an empty list means all addresses."""
    options = f"{{type: ebpf, nodePortAddresses: {option}}}" if option else "ebpf"
    cluster = running(
        store(
            LAB.replace("kubeProxyMode: ebpf", f"kubeProxyMode: {options}")
            + service(type="NodePort")
        )
    )
    objects = plan(cluster, decided("onlink", "dynamic"))["node/worker"].values()
    (programs,) = (obj for obj in objects if isinstance(obj, BpfPrograms))
    assert tuple(door for config in programs.ranges for door in config.node_port_addresses) == doors


DIRECT = LAB.replace("kubeProxyMode: ebpf", "kubeProxyMode: {type: ebpf, dsr: true}")


def test_direct_return_applies_to_external_traffic_with_policy_cluster() -> None:
    """Nodes then know the pod CIDR blocks of other nodes."""
    balanced = service("near", type="LoadBalancer", externalTrafficPolicy="Local")
    cluster = running(
        store(
            DIRECT + deployment() + service(type="NodePort", externalIPs=["192.0.2.7"]) + balanced
        )
    )
    objects = plan(cluster, decided("onlink", "dynamic"))["node/worker"].values()
    rules = [obj for obj in objects if isinstance(obj, RuleObject) and obj.backend == "bpf"]
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


def test_an_error_message_identifies_the_object_of_an_entry() -> None:
    """The message contains the map and the key; other messages are about the programs."""
    front = Frontend("", "10.96.0.7", 80, "TCP", "s", ("a", 0))
    ((_, key), _) = next(iter(front.entries()))
    full = f"fronts {key.hex()}: No space left on device"
    assert bpf.failed_object(full, [front]) == (front, front)
    assert bpf.failed_object(full, [NODE, front]) == (front, front)
    assert bpf.failed_object("eth0: Operation not permitted", [NODE, front]) == (NODE, NODE)
    assert bpf.failed_object("eth0: Operation not permitted", [front]) is None
