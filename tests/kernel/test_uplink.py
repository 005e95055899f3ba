"""The machine's end of an uplink, judged by iproute2."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.errors import LabError
from kubenetlab.kernel import uplink

ADDRESSES = ["198.18.0.1/30", "fd6b:6e6c::1/126"]


def ip(*words: str) -> Any:
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "null")


@contextmanager
def router() -> Iterator[str]:
    """Yield the path of another namespace."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield f"/proc/{holder.pid}/ns/net"


def setting(name: str) -> str:
    return Path("/proc/sys/net", name).read_text().strip()


def test_a_link_is_connected_and_disconnected() -> None:
    """It is up, has its addresses at once, and forwards."""
    before = [link["ifname"] for link in ip("link")]
    with router() as netns:
        assert not uplink.is_connected("knl-test", ADDRESSES)
        uplink.connect("knl-test", "uplink", netns, ADDRESSES)
        (link,) = ip("address", "show", "dev", "knl-test")
        assert "UP" in link["flags"]
        found = {
            f"{entry['local']}/{entry['prefixlen']}": entry
            for entry in link["addr_info"]
            if entry["scope"] == "global"
        }
        assert sorted(found) == ADDRESSES
        assert not any(entry.get("tentative") for entry in found.values())
        for name in ("forwarding", "route_localnet"):
            assert setting(f"ipv4/conf/knl-test/{name}") == "1"
        other = subprocess.run(
            ["nsenter", f"--net={netns}", "ip", "-j", "link", "show", "dev", "uplink"],
            capture_output=True,
            check=True,
        )
        assert json.loads(other.stdout)[0]["link_netnsid"] == 0
        assert uplink.is_connected("knl-test", ADDRESSES)
        assert not uplink.is_connected("knl-test", [*ADDRESSES, "198.18.0.9/30"])
        for _ in range(2):
            uplink.disconnect("knl-test")
            assert not uplink.has_link("knl-test")
    assert [link["ifname"] for link in ip("link")] == before


@pytest.mark.parametrize(
    "harm",
    [
        ("ip", "link", "set", "knl-test", "down"),
        ("ip", "address", "delete", ADDRESSES[0], "dev", "knl-test"),
        ("sysctl", "-q", "-w", "net.ipv4.conf.knl-test.forwarding=0"),
    ],
    ids=["down", "without an address", "without forwarding"],
)
def test_a_link_that_was_changed_is_not_connected(harm: tuple[str, ...]) -> None:
    with router() as netns:
        uplink.connect("knl-test", "uplink", netns, ADDRESSES)
        subprocess.run(harm, check=True)
        assert not uplink.is_connected("knl-test", ADDRESSES)


def test_a_refusal_names_the_link_or_the_address() -> None:
    with router() as netns:
        uplink.connect("knl-test", "uplink", netns, ADDRESSES[:1])
        with pytest.raises(LabError, match=r"uplink: link knl-test: .*EEXIST"):
            uplink.connect("knl-test", "another", netns, ADDRESSES)
        with pytest.raises(LabError, match=r"address 198.18.0.9/30 of knl-other: .*EEXIST"):
            uplink.connect("knl-other", "other", netns, 2 * ["198.18.0.9/30"])


@pytest.mark.parametrize(
    ("version", "length", "taken", "expected"),
    [
        (4, 30, ["198.18.0.0/29"], ("198.18.0.9", "198.18.0.10")),
        (4, 30, ["198.18.0.4/32", "203.0.113.0/24"], ("198.18.0.1", "198.18.0.2")),
        pytest.param(6, 126, ["fd6b:6e6c::/64"], ("", ""), marks=pytest.mark.first_kernel),
    ],
)
def test_a_subnet_without_routes_is_chosen(
    version: int, length: int, taken: list[str], expected: tuple[str, str]
) -> None:
    """Routes of all tables count, default routes do not."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "route", "add", "default", "dev", "lo"], check=True)
    for number, destination in enumerate(taken):
        table = ("table", str(100 + number))
        family = f"-{version}"
        subprocess.run(["ip", family, "route", "add", destination, "dev", "lo", *table], check=True)
    if expected[0]:
        assert uplink.free_link(version, 0, length) == expected
    else:
        with pytest.raises(LabError, match="no free subnet"):
            uplink.free_link(version, 0, length)


def test_links_with_ipv4_addresses_that_do_not_forward_are_named() -> None:
    for name, address, forwarding in (
        ("eth0", "192.0.2.1/24", 0),
        ("eth1", "192.0.2.129/25", 1),
        ("eth2", "", 0),
        ("knl-other", "198.18.0.1/30", 0),
    ):
        subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
        if address:
            subprocess.run(["ip", "address", "add", address, "dev", name], check=True)
        Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text(str(forwarding))
    Path("/proc/sys/net/ipv4/conf/lo/forwarding").write_text("0")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert uplink.links_without_forwarding() == ["eth0"]
