"""The programs of the mode ebpf on the links of a namespace: put there, found again, put again, taken away."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import Any

import pytest

from kubenetlab.hoststate import tc
from kubenetlab.hoststate.rules import bpf
from kubenetlab.hoststate.rules.bpf import BpfPrograms, ClusterIp, FamilyConfig, Frontend, PodLink
from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.bpf import OBJECT, BpfLoader, open_here
from kubenetlab.kernel.rules.libbpf import LIBRARY, Libbpf, has_library
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


def opened() -> BpfLoader:
    if not has_library() or not is_root():
        pytest.skip(
            f"the programs are loaded by {LIBRARY} (apt-get install libbpf1) as root of the machine"
        )
    return open_here()


def with_links(*names: str) -> None:
    for name in names:
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer"], check=True
        )


def listen(loader: BpfLoader) -> None:
    """What the node agent does: hears when there is something to hear."""
    assert select.select([loader], [], [], patiently(5))[0], "nothing is heard"
    loader.heard()


def test_services_are_told_and_changed() -> None:
    """By changes, by making anew, and back to nothing; what differs is named."""
    loader = opened()
    with_links("eth0")
    loader.run(bpf.update([], NODE + SERVICE))
    assert list(bpf.differences(NODE + SERVICE, loader.listed(()))) == []
    assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH}
    assert {"link eth0: coming, going", "front 10.96.0.7: a cluster IP"} <= set(
        loader.text().splitlines()
    )
    loader.run(bpf.update(NODE + SERVICE, NODE))
    assert list(bpf.differences(NODE, loader.listed(()))) == []
    assert [found.line for found in bpf.differences(NODE + SERVICE, loader.listed(()))] == [
        "+ bpf map fronts: 10.96.0.7: cluster IP",
        f"+ bpf map fronts: 10.96.0.7 80/TCP of default/web/TCP, Cluster: 1 endpoints in {ENDPOINTS.name}, Local: none",
        f"+ bpf map endpoints: {ENDPOINTS.name} 0: 10.244.1.2 80",
        f"+ bpf map members: {ENDPOINTS.name} has 10.244.1.2 80",
    ]
    loader.run(bpf.update(NODE, NODE + SERVICE))
    loader.run(bpf.replacement(NODE + SERVICE[:1]))
    assert list(bpf.differences(NODE + SERVICE[:1], loader.listed(()))) == []
    loader.run(bpf.update(NODE + SERVICE[:1], [], [bpf.NAME]))
    loader.tend()
    assert loader.listed(()) == {"links": {}, "maps": {}}
    loader.close()


def flow_seen_at(loader: BpfLoader, seen_ns: int) -> None:
    """A flow of which a packet was last seen then."""
    assert loader._loaded is not None
    found = loader._loaded.maps["flows"]
    loader._loaded.set(
        "flows",
        bytes(found.key_size),
        bytes(found.value_size - 8) + seen_ns.to_bytes(8, sys.byteorder),
    )


NEVER_OVER = 2**63


def test_programs_that_are_to_go_end_what_they_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services are gone at once, the programs when they have no packets any more, or when their time is over; nobody waits for that."""
    loader = opened()
    with_links("eth0")
    there = {"lo": ["going"], "eth0": BOTH}
    for is_over_by_time in (False, True):
        monkeypatch.setattr("kubenetlab.kernel.rules.bpf.GRACE_S", 3600)
        loader.run(bpf.update([], NODE + SERVICE))
        flow_seen_at(loader, NEVER_OVER)
        loader.run(bpf.update(NODE + SERVICE, [], [bpf.NAME]))
        loader.tend()
        listed = loader.listed(())
        assert (listed["links"], listed["maps"]["fronts"], listed["maps"]["endpoints"]) == (
            there,
            {},
            {},
        )
        if is_over_by_time:
            monkeypatch.setattr("kubenetlab.kernel.rules.bpf.GRACE_S", 0)
        else:
            flow_seen_at(loader, 0)
        loader.tend()
        assert loader.listed(()) == {"links": {}, "maps": {}}
    loader.close()


def test_programs_that_are_to_go_may_stay() -> None:
    """Where they are asked for again they know their flows."""
    loader = opened()
    with_links("eth0")
    loader.run(bpf.update([], NODE + SERVICE))
    flow_seen_at(loader, NEVER_OVER)
    loader.run(bpf.update(NODE + SERVICE, [], [bpf.NAME]))
    loader.run(bpf.update([], NODE + SERVICE))
    flow_seen_at(loader, 0)
    loader.tend()
    assert list(bpf.differences(NODE + SERVICE, loader.listed(()))) == []
    loader.close()


def settle(loader: BpfLoader, looks: int = 20) -> bool:
    """Has it compare more often than it takes to see everything here. True when something was not as it was told."""
    return any(loader.was_touched() for _ in range(looks))


@pytest.mark.parametrize("change", ["taken away", "changed", "added"])
def test_an_entry_that_somebody_else_changes_is_noticed(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By comparing a few at a time; what is as it was told is no change, and one change is not told all the time."""
    monkeypatch.setattr("kubenetlab.kernel.rules.bpf.ENTRIES_PER_CHECK", 2)
    monkeypatch.setattr("kubenetlab.kernel.rules.bpf.CHECK_INTERVAL_S", 3600)
    loader = opened()
    with_links("eth0")
    loader.run(bpf.update([], NODE + SERVICE))
    loader.run(bpf.update(NODE + SERVICE, NODE + SERVICE[:2]))
    loader.run(bpf.update(NODE + SERVICE[:2], NODE + SERVICE))
    assert not settle(loader)
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
    assert settle(loader)
    assert not settle(loader)
    loader.run(bpf.replacement(NODE + SERVICE))
    assert not settle(loader)
    assert list(bpf.differences(NODE + SERVICE, loader.listed(()))) == []
    loader.close()


def test_another_process_goes_on_with_what_is_there() -> None:
    """The links hold the programs and their maps; flows stay as they are."""
    first = opened()
    with_links("eth0")
    first.run(bpf.update([], NODE + SERVICE))
    first.close()
    second = opened()
    assert list(bpf.differences(NODE + SERVICE, second.listed(()))) == []
    ids = [one.program_id for index in second._links().values() for one in second._filters(index)]
    second.run(bpf.update(NODE + SERVICE, NODE))
    second.run(bpf.replacement(NODE + SERVICE))
    assert [
        one.program_id for index in second._links().values() for one in second._filters(index)
    ] == ids
    second.close()


def test_a_link_that_comes_later_gets_the_programs() -> None:
    """Nobody has to tell; one of the same name that comes in its place gets them, too; one that is not wanted does not."""
    loader = opened()
    with_links("eth0")
    loader.run(bpf.update([], [*NODE, PodLink("", "veth0")]))
    for _ in range(2):
        with_links("veth0", "veth1")
        listen(loader)
        assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH, "veth0": BOTH}
        for name in ("veth0", "veth1"):
            subprocess.run(["ip", "link", "del", name], check=True)
        listen(loader)
    loader.close()


def test_a_link_that_is_not_wanted_any_more_loses_them() -> None:
    """The others keep them."""
    loader = opened()
    with_links("eth0", "veth0")
    both = [*NODE, PodLink("", "veth0")]
    loader.run(bpf.update([], both))
    loader.run(bpf.update(both, NODE))
    assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH}
    loader.close()


@pytest.mark.parametrize("command", ["filter del dev eth0 ingress", "qdisc del dev eth0 clsact"])
def test_what_somebody_took_away_is_put_again(command: str) -> None:
    """As soon as the kernel tells of it."""
    loader = opened()
    with_links("eth0")
    loader.run(bpf.update([], NODE))
    loader.heard()
    subprocess.run(["tc", *command.split()], check=True)
    assert loader.listed(())["links"] != {"lo": ["going"], "eth0": BOTH}
    listen(loader)
    assert loader.listed(())["links"] == {"lo": ["going"], "eth0": BOTH}
    loader.close()


def test_another_program_in_the_place_of_ours_is_replaced() -> None:
    """It may be there before ours is put again, not longer."""
    loader, another = opened(), opened()
    with_links("eth0")
    loader.run(bpf.update([], NODE))
    loader.heard()
    (index,) = (index for name, index in loader._links().items() if name == "eth0")
    ids = [one.program_id for one in loader._filters(index)]
    foreign = Libbpf().load(OBJECT.read_bytes())
    assert (
        another._route.batch([tc.set_filter(index, "ingress", foreign.programs["going"], "theirs")])
        == []
    )
    assert [one.name for one in loader._filters(index)] == ["theirs", "going"]
    listen(loader)
    assert [one.program_id for one in loader._filters(index)] == ids
    loader.heard()
    for one in (foreign, another, loader):
        one.close()


def test_a_refusal_names_the_entry() -> None:
    """So that it can be said which object it was."""
    loader = opened()
    words = bpf.update([], NODE + SERVICE).replace(
        f'["fronts", "{next(iter(SERVICE[1].entries()))[0][1].hex()}"', '["fronts", "00"'
    )
    with pytest.raises(RulesError, match="fronts has keys of 20 and values of 40 bytes"):
        loader.run(words)
    loader.close()


def test_a_closed_loader_holds_nothing() -> None:
    """Neither descriptors nor programs that are on no link."""
    opened().close()  # what the library itself keeps open
    before = os.listdir("/proc/self/fd")
    loader = opened()
    loader.run(bpf.update([], NODE + SERVICE))
    loader.close()
    assert os.listdir("/proc/self/fd") == before
