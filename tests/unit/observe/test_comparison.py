"""compare: choice of pods, results as data, and modes on the command line."""

from __future__ import annotations

import pytest

from kubenetlab.cli.input.mode_options import split_modes
from kubenetlab.cli.labs.temporary_lab import Completed
from kubenetlab.cli.terminal.output_schemas import schema_of
from kubenetlab.datapath.short_names import expand_short_name
from kubenetlab.errors import LabError
from kubenetlab.observe.comparison.datagrams import Datagram, growth
from kubenetlab.observe.comparison.measurement import Measurement, subjects
from kubenetlab.observe.comparison.results import ComparedMode, count_programs, document
from kubenetlab.observe.targets.locations import Location

MEASURED = Measurement(5, 49, 0, 2, 50, 1450, 0.05, 11.5, "pod", "node")


def place(name: str, node: str, *addresses: str, kind: str = "pod") -> Location:
    return Location(kind, "default", name, name, f"/run/{name}", addresses, node=node)  # type: ignore[arg-type]


NODES = [place("n1", "n1", "172.18.0.2", kind="node"), place("n2", "n2", "172.18.0.3", kind="node")]


def test_two_pods_of_a_node_and_one_of_another_are_chosen() -> None:
    """Pods without an address of the family do not count."""
    pods = [
        place("v6", "n1", "fd00::2"),
        place("alone", "n1", "10.0.1.2"),
        place("a", "n2", "10.0.2.2"),
        place("b", "n2", "10.0.2.3"),
    ]
    ends = subjects(pods, NODES, 4)
    assert [end.name for end in ends] == ["a", "b", "alone", "n2", "n1"]


def test_too_few_pods_are_an_error_that_counts_them() -> None:
    with pytest.raises(LabError, match="2 on n1"):
        subjects([place("a", "n1", "10.0.1.2"), place("b", "n1", "10.0.1.3")], NODES, 4)


def test_results_have_all_fields_of_the_schema() -> None:
    """A mode that was not measured has null in their place."""
    output = document([ComparedMode("flannel", measurement=MEASURED), ComparedMode("x", error="y")])
    assert not output["ok"]
    fields = schema_of("compare")["properties"]["modes"]["items"]["properties"]
    for entry in output["modes"]:
        assert set(entry) == set(fields)
    assert output["modes"][1]["mtu"] is None
    assert output["modes"][0]["gbit_per_s"] == 11.5


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_is_found_on_the_fabric(version: int) -> None:
    """One that cannot be read is known by its size; one that was not sent is not found."""
    content = bytes(range(200)) * 4
    plain = 14 + (20 if version == 4 else 40) + 8 + len(content)
    datagram = Datagram(2, "10.0.0.1", content, version)
    others = [bytes(60), bytes(90), bytes(plain - 1), bytes(1514)]
    readable = bytes(plain + 50 - len(content)) + content
    assert growth([*others, readable, bytes(plain + 84)], datagram) == (50, False)
    assert growth([*others, bytes(plain + 84)], datagram) == (84, True)
    assert growth(others, datagram) == (None, False)


def test_programs_are_counted_in_listings() -> None:
    listings = {
        "cilium": "link eth0: cil_from_netdev, cil_to_netdev\nlink lxc1: cil_from_container\n"
        "cilium_lxc 10.0.0.2: endpoint\n",
        "nftables": "table ip x {\n}\n",
    }
    assert count_programs(listings) == 3


@pytest.mark.parametrize(
    ("texts", "modes"),
    [
        (["bridge"], ["bridge"]),
        (["flannel-vxlan,calico-bgp"], ["flannel-vxlan", "calico-bgp"]),
        (["flannel,backend=vxlan,vni=7,none"], ["flannel,backend=vxlan,vni=7", "none"]),
        (["x,ranges=[a,b],y", "z"], ["x,ranges=[a,b]", "y", "z"]),
    ],
)
def test_commas_separate_modes_and_options(texts: list[str], modes: list[str]) -> None:
    """A part without an equals sign begins a mode."""
    assert list(split_modes(texts)) == modes


@pytest.mark.parametrize(
    ("short", "expanded"),
    [
        ("flannel-vxlan", {"type": "flannel", "backend": "vxlan"}),
        ("flannel-host-gw", {"type": "flannel", "backend": "host-gw"}),
        ("calico-ipip", {"type": "calico", "backend": "ipip"}),
        ("cilium-native", {"type": "cilium", "routingMode": "native"}),
        ("bridge-routed", {"type": "bridge", "layout": "routed"}),
        ("kube-router", {"type": "kube-router"}),
        ("flannel-auto", {"type": "flannel-auto"}),  # a value of two options
        ("flannel-ipip", {"type": "flannel", "backend": "ipip"}),
        ("flannel-geneve", {"type": "flannel-geneve"}),
    ],
)
def test_a_short_name_stands_for_a_mode_and_an_option(
    short: str, expanded: dict[str, object]
) -> None:
    assert expand_short_name("cni", {"type": short}) == expanded


def test_a_short_name_keeps_further_options() -> None:
    assert expand_short_name("cni", {"type": "flannel-vxlan", "vni": 7}) == {
        "type": "flannel",
        "backend": "vxlan",
        "vni": 7,
    }


@pytest.mark.parametrize(
    ("output", "errors", "reason"),
    [
        ("", "warning: a\nerror: no module\nnext: x\n", "no module"),
        ("not ready: default/a\n", "note: x\n", "not ready: default/a"),
        ("", "", "exit status 1"),
    ],
)
def test_the_reason_of_a_failure_is_its_error(output: str, errors: str, reason: str) -> None:
    assert Completed(1, output, errors).reason == reason
