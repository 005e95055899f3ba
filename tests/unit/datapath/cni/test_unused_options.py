"""Warnings about options that another option leaves without effect."""

from __future__ import annotations

import pytest

from kubenetlab.datapath.modes import try_load


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("flannel", {"vni": 7, "port": 4789, "directRouting": True}, []),
        (
            "flannel",
            {"backend": "host-gw", "vni": 7, "directRouting": True},
            ["directRouting: has no effect with backend: host-gw", "vni: … backend: host-gw"],
        ),
        ("flannel", {"backend": "wireguard", "port": 1}, ["port: … backend: wireguard"]),
        ("calico", {"asNumber": 65001, "nodeToNodeMesh": False, "vni": 5}, []),
        (
            "calico",
            {"backend": "vxlan", "asNumber": 65001, "nodeToNodeMesh": False, "crossSubnet": True},
            ["asNumber: … backend: vxlan", "nodeToNodeMesh: … backend: vxlan"],
        ),
        ("calico", {"crossSubnet": True}, ["crossSubnet: … backend: bgp"]),
        ("cilium", {"tunnelPort": 4789}, []),
        (
            "cilium",
            {"tunnelPort": 4789, "routingMode": "native"},
            ["tunnelPort: … routingMode: native"],
        ),
    ],
)
def test_an_option_without_effect_is_named(
    mode: str, options: dict[str, object], expected: list[str]
) -> None:
    """The mode is accepted: the option may be for another backend, which a user tries next."""
    loaded, findings = try_load("cni", mode, options)
    assert loaded is not None
    assert all(finding.is_warning for finding in findings)
    shown = [f"{finding.path[2]}: {finding.message}" for finding in findings]
    assert shown == [text.replace("…", "has no effect with") for text in expected]
