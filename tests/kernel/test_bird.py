"""BIRD accepts the configurations that are written for it, and does with routes what they mean."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.datapath.network.bgp import Peer, Speaker, peer_name
from kubenetlab.datapath.network.bird import bird_config
from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import wait_for

pytestmark = [
    pytest.mark.first_kernel,  # BIRD behaves alike on both
    pytest.mark.skipif(not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"),
]
SPEAKERS = {
    "alone": Speaker("172.18.0.2", ("172.18.0.2",), ()),
    "dual": Speaker(
        "172.18.0.2",
        ("172.18.0.2", "fd00::2"),
        (Peer("Mesh_172_18_0_3", "172.18.0.3"), Peer("Mesh_fd00__3", "fd00::3")),
        announced=("10.244.1.0/24", "fd01:1::/64"),
    ),
    "IPv6": Speaker("0.0.0.2", ("fd00::2",), (Peer("Mesh_fd00__3", "fd00::3"),), ("fd01::/64",)),
    "reflector": Speaker(
        "172.18.0.2",
        ("172.18.0.2",),
        (Peer("Node_1", "172.18.0.3", is_client=True),),
        blackholes=("10.244.1.0/26", "10.244.1.64/26"),
        keeps_routes=False,
    ),
    "external": Speaker(
        "172.18.0.2",
        ("172.18.0.2",),
        (Peer("Global_1", "192.0.2.1", 65000, is_direct=False, gets_learned=True),),
        ("203.0.113.1/32",),
        as_number=4200000000,
        max_paths=64,
    ),
    "router": Speaker(
        "172.18.1.1",
        ("172.18.1.1", "fd00:1::1"),
        tuple(
            Peer(
                peer_name("Node", node),
                node,
                as_number,
                is_client=as_number == 65000,
                gets_learned=True,
                source=source,
                subnet=subnet,
                own_as_allowed=1,
            )
            for node, source, subnet, as_number in (
                ("172.18.1.2", "172.18.1.1", "172.18.1.0/24", 64512),
                ("172.18.2.2", "172.18.2.1", "172.18.2.0/24", 65000),
                ("fd00:2::2", "fd00:2::1", "fd00:2::/64", 65000),
            )
        ),
        as_number=65000,
    ),
}


@pytest.mark.parametrize("speaker", SPEAKERS.values(), ids=SPEAKERS)
def test_bird_accepts_the_configuration(speaker: Speaker, tmp_path: Path) -> None:
    """`bird -p` reads it without an error."""
    config = tmp_path / "bird.conf"
    config.write_text(bird_config(speaker))
    checked = subprocess.run(
        ["bird", "-p", "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr


class Routers:
    """Namespaces r2, r3 … with the addresses 172.18.0.2, 172.18.0.3 … on one switch, and BIRD."""

    def __init__(self, directory: Path, speakers: dict[int, Speaker]) -> None:
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "br0", "up")
        self._birds: list[subprocess.Popen[bytes]] = []
        for number, speaker in speakers.items():
            name = f"r{number}"
            ip("netns", "add", name)
            ip("link", "add", name, "master", "br0", "type", "veth", "peer", "eth0", "netns", name)
            ip("link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "address", "add", f"172.18.0.{number}/16", "dev", "eth0")
            config = directory / f"{name}.conf"
            config.write_text(bird_config(speaker))
            command = ["bird", "-f", "-c", str(config), "-s", str(directory / f"{name}.ctl")]
            self._birds.append(subprocess.Popen(["ip", "netns", "exec", name, *command]))

    def routes(self, number: int) -> dict[str, Any]:
        """Return the routes of BIRD in the kernel: destination → type or next hops."""
        listed = json.loads(ip("-j", "-n", f"r{number}", "route", "show", "proto", "bird"))
        return {
            route["dst"]: route["type"]
            if "type" in route
            else sorted(hop["gateway"] for hop in route.get("nexthops", [route]))
            for route in listed
        }

    def close(self) -> None:
        for bird in self._birds:
            bird.kill()
            bird.wait()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def routers(directory: Path, speakers: dict[int, Speaker]) -> Iterator[Routers]:
    """Yield routers in namespaces that are gone with this test."""
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    created = Routers(directory, speakers)
    try:
        yield created
    finally:
        created.close()


def address(number: int) -> str:
    return f"172.18.0.{number}"


def block(number: int) -> str:
    return f"10.244.{number}.0/26"


def speaker_of(number: int, *peers: Peer, **options: Any) -> Speaker:
    return Speaker(
        address(number), (address(number),), peers, blackholes=(block(number),), **options
    )


def test_blocks_are_announced_and_dropped_where_they_are_not_in_use(tmp_path: Path) -> None:
    """As Calico's: the node with the block has a blackhole, all others have a route to the node."""
    speakers = {
        number: speaker_of(
            number, *(Peer(f"Mesh_{other}", address(other)) for other in (2, 3) if other != number)
        )
        for number in (2, 3)
    }
    for created in routers(tmp_path, speakers):
        expected = {block(2): "blackhole", block(3): [address(3)]}
        wait_for(lambda: created.routes(2) == expected, "the routes")  # noqa: B023
        assert created.routes(3) == {block(3): "blackhole", block(2): [address(2)]}


def test_clients_of_a_route_reflector_learn_from_each_other(tmp_path: Path) -> None:
    """Next hops are the clients themselves: packets do not pass the reflector."""
    clients = [Peer(f"Node_{number}", address(number), is_client=True) for number in (3, 4)]
    speakers = {
        2: speaker_of(2, *clients),
        3: speaker_of(3, Peer("Node_2", address(2))),
        4: speaker_of(4, Peer("Node_2", address(2))),
    }
    for created in routers(tmp_path, speakers):
        expected = {block(3): "blackhole", block(2): [address(2)], block(4): [address(4)]}
        wait_for(lambda: created.routes(3) == expected, "the routes")  # noqa: B023


def test_an_external_peer_uses_every_node_that_announces_an_address(tmp_path: Path) -> None:
    """Equal routes are one route with several next hops (ECMP)."""
    vip = "203.0.113.7/32"
    outside = Peer("Global_4", address(4), 65000)
    speakers = {
        **{
            number: Speaker(address(number), (address(number),), (outside,), announced=(vip,))
            for number in (2, 3)
        },
        4: Speaker(
            address(4),
            (address(4),),
            tuple(Peer(f"Node_{number}", address(number)) for number in (2, 3)),
            as_number=65000,
        ),
    }
    for created in routers(tmp_path, speakers):
        expected = {"203.0.113.7": [address(2), address(3)]}
        wait_for(lambda: created.routes(4) == expected, "both next hops")  # noqa: B023
        assert created.routes(2) == {}
