"""The bpf backend: programs are attached, found again, repaired and removed."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from typing import Any

import pytest

from kubenetlab.hoststate.netlink import tc
from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import (
    BpfPrograms,
    ClusterIp,
    FamilyConfig,
    Frontend,
    OverlayLink,
    PodLink,
)
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.bpf import OBJECT, BpfLoader, open_loader
from kubenetlab.kernel.rules.libbpf import Libbpf
from tests.libbpf import require_libbpf
from tests.patience import patiently

NODE: list[Any] = [
    BpfPrograms("", (FamilyConfig("172.18.0.2", "10.244.0.0/16", "10.96.0.0/16"),), "eth0")
]
ENDPOINTS = bpf.endpoints("default/web/TCP", "Cluster", [("10.244.1.2", 80)])
SERVICE: list[Any] = [
    ENDPOINTS,
    ClusterIp("", "10.96.0.7"),
    Frontend("", "10.96.0.7", 80, "TCP", "default/web/TCP", (ENDPOINTS.name, 1)),
]
BOTH = ["coming", "going"]


def new_loader() -> BpfLoader:
    require_libbpf()
    return open_loader()


def with_links(*names: str) -> None:
    for name in names:
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer"], check=True
        )


def process_events(loader: BpfLoader) -> None:
    """Wait for an event and process it, as the node agent does."""
    assert select.select([loader], [], [], patiently(5))[0], "no event arrives"
    loader.process_events()


def test_services_are_loaded_changed_and_removed() -> None:
    """Updates and replacements are covered; differences are named."""
    loader = new_loader()
    with_links("eth0")
    loader.run(bpf.update([], NODE + SERVICE))
    assert list(bpf.differences(NODE + SERVICE, loader.listed(()))) == []
    assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH}
    assert {"link eth0: coming, going", "front 10.96.0.7: a cluster IP"} <= set(
        loader.text().splitlines()
    )
    loader.run(bpf.update(NODE + SERVICE, NODE))
    assert list(bpf.differences(NODE, loader.listed(()))) == []
    assert [
        difference.line for difference in bpf.differences(NODE + SERVICE, loader.listed(()))
    ] == [
        "+ bpf map fronts: 10.96.0.7: cluster IP",
        "+ bpf map fronts: 10.96.0.7 80/TCP of default/web/TCP, Cluster: 1 endpoints in "
        f"{ENDPOINTS.name}, Local: none",
        f"+ bpf map endpoints: {ENDPOINTS.name} 0: 10.244.1.2 80",
        f"+ bpf map members: {ENDPOINTS.name} has 10.244.1.2 80",
    ]
    loader.run(bpf.update(NODE, NODE + SERVICE))
    loader.run(bpf.replacement(NODE + SERVICE[:1]))
    assert list(bpf.differences(NODE + SERVICE[:1], loader.listed(()))) == []
    loader.run(bpf.update(NODE + SERVICE[:1], [], [bpf.NAME]))
    loader.maintain()
    assert loader.listed(()) == {"links": {}, "maps": {}}
    loader.close()


def add_flow(loader: BpfLoader, seen_ns: int) -> None:
    """Add a flow whose last packet was seen at this time."""
    assert loader._loaded is not None
    flows = loader._loaded.maps["flows"]
    loader._loaded.set(
        "flows",
        bytes(flows.key_size),
        bytes(flows.value_size - 8) + seen_ns.to_bytes(8, sys.byteorder),
    )


FAR_FUTURE_NS = 2**63


def test_stopped_programs_finish_open_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services are removed at once.

    The programs are removed when no more packets arrive, or after a timeout, without blocking.
    """
    loader = new_loader()
    with_links("eth0")
    attached = {"lo": ["going"], "eth0": BOTH}
    for is_timeout in (False, True):
        monkeypatch.setattr("kubenetlab.kernel.rules.bpf.GRACE_S", 3600)
        loader.run(bpf.update([], NODE + SERVICE))
        add_flow(loader, FAR_FUTURE_NS)
        loader.run(bpf.update(NODE + SERVICE, [], [bpf.NAME]))
        loader.maintain()
        listed = loader.listed(())
        assert (listed["links"], listed["maps"]["fronts"], listed["maps"]["endpoints"]) == (
            attached,
            {},
            {},
        )
        if is_timeout:
            monkeypatch.setattr("kubenetlab.kernel.rules.bpf.GRACE_S", 0)
        else:
            add_flow(loader, 0)
        loader.maintain()
        assert loader.listed(()) == {"links": {}, "maps": {}}
    loader.close()


def test_stopped_programs_can_be_started_again() -> None:
    """They still know their flows."""
    loader = new_loader()
    with_links("eth0")
    loader.run(bpf.update([], NODE + SERVICE))
    add_flow(loader, FAR_FUTURE_NS)
    loader.run(bpf.update(NODE + SERVICE, [], [bpf.NAME]))
    loader.run(bpf.update([], NODE + SERVICE))
    add_flow(loader, 0)
    loader.maintain()
    assert list(bpf.differences(NODE + SERVICE, loader.listed(()))) == []
    loader.close()


def test_overlay_links_are_known_by_their_indexes() -> None:
    """The link with the routes may be a bridge, which appears later, and may be made anew."""
    loader = new_loader()
    with_links("eth0", "flannel.1", "tunnel")
    first = OverlayLink("", 0, "flannel.1", ("10.244.1.0", "fd00:10:244:1::"))
    second = OverlayLink("", 1, "tunnel", (), "weave")
    node: list[Any] = [BpfPrograms("", NODE[0].ranges, "eth0", 2), first, second]
    loader.run(bpf.update([], node))
    listed = loader.listed(())
    assert list(bpf.differences(node, listed)) == []
    assert listed["links"] == {
        "lo": ["going"],
        **dict.fromkeys(("eth0", "flannel.1", "tunnel"), BOTH),
    }
    assert {
        "overlay link 0: own 10.244.1.0, fd00:10:244:1::",
        "overlay link 1: without own address",
    } <= set(loader.text().splitlines())
    assert overlay_links(loader) == {0: "flannel.1"}
    for _ in range(2):
        subprocess.run(["ip", "link", "add", "weave", "type", "bridge"], check=True)
        while overlay_links(loader) != {0: "flannel.1", 1: "weave"}:
            process_events(loader)
        assert not compare_all(loader)
        subprocess.run(["ip", "link", "delete", "weave"], check=True)
    loader.run(bpf.update(node, [BpfPrograms("", NODE[0].ranges, "eth0", 1), first]))
    assert overlay_links(loader) == {0: "flannel.1"}
    loader.close()


def overlay_links(loader: BpfLoader) -> dict[int, str]:
    """Return the names of overlay links by their numbers; entries of missing links are left out."""
    assert loader._loaded is not None
    names = dict(socket.if_nameindex())
    entries = (
        (int.from_bytes(key, sys.byteorder), int.from_bytes(value, sys.byteorder))
        for key, value in loader._loaded.entries("overlay_links")
    )
    return {number: names[index] for number, index in entries if index in names}


def compare_all(loader: BpfLoader, calls: int = 20) -> bool:
    """Call `has_drift` often enough to compare all entries; return True if there was drift."""
    return any(loader.has_drift() for _ in range(calls))


@pytest.mark.parametrize("change", ["taken away", "changed", "added"])
def test_drift_of_map_entries_is_detected(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are compared some at a time. Own changes are no drift, and drift is reported once."""
    monkeypatch.setattr("kubenetlab.kernel.rules.bpf.ENTRIES_PER_CHECK", 2)
    monkeypatch.setattr("kubenetlab.kernel.rules.bpf.CHECK_INTERVAL_S", 3600)
    loader = new_loader()
    with_links("eth0")
    loader.run(bpf.update([], NODE + SERVICE))
    loader.run(bpf.update(NODE + SERVICE, NODE + SERVICE[:2]))
    loader.run(bpf.update(NODE + SERVICE[:2], NODE + SERVICE))
    assert not compare_all(loader)
    loader.run(bpf.update(NODE + SERVICE, [*NODE, *SERVICE, ClusterIp("", "10.96.0.8")]))
    assert loader._loaded is not None
    (key, value), *_ = loader._loaded.entries("endpoints")
    match change:
        case "taken away":
            loader._loaded.delete("endpoints", key)
        case "changed":
            loader._loaded.set("endpoints", key, value[::-1])
        case "added":
            loader._loaded.set("endpoints", key[::-1], value)
    assert compare_all(loader)
    assert not compare_all(loader)
    loader.run(bpf.replacement(NODE + SERVICE))
    assert not compare_all(loader)
    assert list(bpf.differences(NODE + SERVICE, loader.listed(()))) == []
    loader.close()


def test_another_process_continues_with_the_attached_programs() -> None:
    """Links keep the programs and their maps, and thereby the flows."""
    first = new_loader()
    with_links("eth0")
    first.run(bpf.update([], NODE + SERVICE))
    first.close()
    second = new_loader()
    assert list(bpf.differences(NODE + SERVICE, second.listed(()))) == []
    ids = [
        filter_.program_id
        for index in second._tc.links().values()
        for filter_ in second._tc.filters(index)
    ]
    second.run(bpf.update(NODE + SERVICE, NODE))
    second.run(bpf.replacement(NODE + SERVICE))
    assert [
        filter_.program_id
        for index in second._tc.links().values()
        for filter_ in second._tc.filters(index)
    ] == ids
    second.close()


def test_programs_are_attached_to_new_links() -> None:
    """This needs no update. A replaced link of the same name gets them, too; other links do not."""
    loader = new_loader()
    with_links("eth0")
    loader.run(bpf.update([], [*NODE, PodLink("", "veth0")]))
    for _ in range(2):
        with_links("veth0", "veth1")
        process_events(loader)
        assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH, "veth0": BOTH}
        for name in ("veth0", "veth1"):
            subprocess.run(["ip", "link", "del", name], check=True)
        process_events(loader)
    loader.close()


def test_programs_are_detached_from_links_without_need() -> None:
    """Other links keep them."""
    loader = new_loader()
    with_links("eth0", "veth0")
    both = [*NODE, PodLink("", "veth0")]
    loader.run(bpf.update([], both))
    loader.run(bpf.update(both, NODE))
    assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH}
    loader.close()


@pytest.mark.parametrize("command", ["filter del dev eth0 ingress", "qdisc del dev eth0 clsact"])
def test_detached_programs_are_attached_again(command: str) -> None:
    """A notification of the kernel triggers it."""
    loader = new_loader()
    with_links("eth0")
    loader.run(bpf.update([], NODE))
    loader.process_events()
    subprocess.run(["tc", *command.split()], check=True)
    assert loader.listed(())["links"] != {"lo": ["going"], "eth0": BOTH}
    process_events(loader)
    assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH}
    loader.close()


def test_a_foreign_program_is_replaced() -> None:
    """The foreign program runs only until the notification is processed."""
    loader, another = new_loader(), new_loader()
    with_links("eth0")
    loader.run(bpf.update([], NODE))
    loader.process_events()
    (index,) = (index for name, index in loader._tc.links().items() if name == "eth0")
    ids = [item.program_id for item in loader._tc.filters(index)]
    foreign = Libbpf().load(OBJECT.read_bytes())
    replacing = tc.set_filter(index, "ingress", foreign.programs["going"], "theirs")
    assert another._tc._route.batch([replacing]) == []
    assert [item.name for item in loader._tc.filters(index)] == ["theirs", "going"]
    process_events(loader)
    assert [item.program_id for item in loader._tc.filters(index)] == ids
    loader.process_events()
    for item in (foreign, another, loader):
        item.close()


def test_a_refusal_names_the_entry() -> None:
    """The entry identifies the object that caused it."""
    loader = new_loader()
    commands = bpf.update([], NODE + SERVICE).replace(
        f'["fronts", "{next(iter(SERVICE[1].entries()))[0][1].hex()}"', '["fronts", "00"'
    )
    with pytest.raises(RulesError, match="fronts has keys of 20 and values of 40 bytes"):
        loader.run(commands)
    loader.close()


def test_a_closed_loader_leaves_nothing_open() -> None:
    """Neither descriptors nor programs without a link remain."""
    new_loader().close()  # descriptors that the library itself keeps open
    before = os.listdir("/proc/self/fd")
    loader = new_loader()
    loader.run(bpf.update([], NODE + SERVICE))
    loader.close()
    assert os.listdir("/proc/self/fd") == before
