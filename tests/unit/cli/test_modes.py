"""Manual pages of modes: the options and needs below them, and short names."""

from __future__ import annotations

import pytest

from kubenetlab.cli import modes
from kubenetlab.cli.input.mode_options import parse_mode
from kubenetlab.datapath.modes import FAMILIES, known, load

ALL = [(family, name) for family in FAMILIES for name in known(family)]


@pytest.mark.parametrize(("family", "name"), ALL)
def test_the_options_of_a_manual_page_are_the_defaults(
    capsys: pytest.CaptureFixture[str], family: str, name: str
) -> None:
    """The text after `On the command line` can be copied."""
    modes.show_manual(name)
    flag = f"On the command line: {FAMILIES[family].flag} "
    (text,) = [
        line.partition(flag)[2] for line in capsys.readouterr().out.splitlines() if flag in line
    ]
    document = dict(parse_mode(text))
    assert document.pop("type") == name
    assert repr(load(family, name, document)) == repr(load(family, name, {}))


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("weave", "nft, bridge, veth, nft nat, vxlan; with some options: ESP"),
        ("kube-router", "nft, bird, bridge, veth, nft nat"),
        ("ptp", "nft, veth, nft nat"),
    ],
)
def test_needs_of_options_are_apart(
    capsys: pytest.CaptureFixture[str], name: str, needs: str
) -> None:
    modes.show_manual(name)
    assert f"\nNeeds: {needs}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("flannel", "flannel"),
        ("flannel-vxlan", "flannel"),
        ("calico-ipip", "calico"),
        ("cilium-native", "cilium"),
        ("ipvs", "ipvs"),
        ("flannel-udp", ""),
        ("pod.spec", ""),
    ],
)
def test_short_names_have_the_manual_page_of_their_mode(name: str, mode: str) -> None:
    assert modes.find(name) == mode


def test_a_family_selects_one_of_several_manuals(capsys: pytest.CaptureFixture[str]) -> None:
    """Without it, the first line says that there are several."""
    modes.show_manual("nftables")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == (
        "There are 2 modes called nftables. To show one of them: "
        "`kubenetlab explain proxy nftables`, `kubenetlab explain policy nftables`"
    )
    assert len([line for line in lines if line.startswith("nftables: ")]) == 2
    modes.show_manual("nftables", "policy")
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("nftables: verdict maps")
    assert not any(line.startswith("nftables: ") for line in lines)
    assert [mode["family"] for mode in modes.mode_data("nftables", "policy")] == ["policy"]


def test_a_mode_of_another_family_is_not_found() -> None:
    assert modes.find("flannel-vxlan", "cni") == "flannel"
    assert modes.find("flannel", "policy") == ""
