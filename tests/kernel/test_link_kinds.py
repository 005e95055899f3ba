"""Links of kinds that pyroute2 encodes, judged by iproute2."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from kubenetlab.hoststate.links.requests import change_link, delete_link, new_link
from kubenetlab.hoststate.netlink.message_classes import Attribute
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket

MAC = "0a:58:00:00:00:07"
VXLAN: list[Attribute] = [
    ("IFLA_VXLAN_ID", 1),
    ("IFLA_VXLAN_PORT", 8472),
    ("IFLA_VXLAN_LOCAL", "172.18.0.3"),
    ("IFLA_VXLAN_LEARNING", 0),
]


def link(name: str) -> Any:
    done = subprocess.run(
        ["ip", "-j", "-d", "link", "show", "dev", name], capture_output=True, check=True
    )
    (found,) = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("dummy", [], {}),
        ("vxlan", VXLAN, {"id": 1, "port": 8472, "local": "172.18.0.3", "learning": False}),
    ],
    ids=["dummy", "vxlan"],
)
def test_a_kind_is_its_name_and_its_attributes(
    kind: str, data: list[Attribute], expected: dict[str, Any]
) -> None:
    """The link has the index and the settings of the request, and is down until it is set up."""
    settings: list[Attribute] = [("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1450)]
    with RouteSocket() as route:
        refusals = route.batch([new_link(kind, "test0", *settings, index=1007, data=data)])
        if any("Unknown device type" in str(refusal) for refusal in refusals):
            pytest.skip(f"this kernel has no links of the kind {kind}")
        assert refusals == []
        found = link("test0")
        assert (found["ifindex"], found["address"], found["mtu"]) == (1007, MAC, 1450)
        assert "UP" not in found["flags"]
        info = found["linkinfo"]
        assert info["info_kind"] == kind
        assert expected.items() <= info.get("info_data", {}).items()
        changes = (("IFLA_IFALIAS", "cni: test"), ("IFLA_MTU", 1400))
        assert route.batch([change_link(1007, *changes, is_up=True)]) == []
        found = link("test0")
        assert (found["ifalias"], found["mtu"], "UP" in found["flags"]) == ("cni: test", 1400, True)
        assert route.batch([change_link(1007, is_up=False)]) == []
        assert "UP" not in link("test0")["flags"]
        assert route.batch([delete_link("test0")]) == []
        assert [str(refusal) for refusal in route.batch([delete_link("test0")])] != []
