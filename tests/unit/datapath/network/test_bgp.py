"""The configuration of BIRD, as text and as its parts."""

from __future__ import annotations

import re

import pytest

from kubenetlab.datapath.network import bird
from kubenetlab.datapath.network.bgp import Peer, Speaker, mesh, router_id
from kubenetlab.datapath.network.bird import bird_config
from kubenetlab.datapath.view import Family
from kubenetlab.hoststate.daemons import ControlSocket, Daemon
from kubenetlab.hoststate.files import File

NODES = [
    (Family(f"172.18.0.{n}", f"10.244.{n}.0/24"), Family(f"fd00::{n}", f"fd01:{n}::/64"))
    for n in (2, 3, 4)
]
OWN, *OTHERS = NODES
SPEAKER = Speaker(
    "172.18.0.2",
    tuple(family.address for family in OWN),
    mesh(OWN, OTHERS),
    announced=tuple(family.pod_cidr for family in OWN),
)


def blocks(text: str, kind: str) -> dict[str, str]:
    """Return the blocks of a kind, such as `protocol bgp`, by name."""
    found = re.findall(rf"^{kind} (\w+)[^{{]*{{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def test_each_pair_of_nodes_has_a_session_for_each_family() -> None:
    """Sessions carry the routes of their own family only."""
    sessions = blocks(bird_config(SPEAKER), "protocol bgp")
    assert list(sessions) == [
        "Mesh_172_18_0_3",
        "Mesh_172_18_0_4",
        "Mesh_fd00__3",
        "Mesh_fd00__4",
    ]
    assert "neighbor 172.18.0.3 as 64512;\n  direct;\n  ipv4 {" in sessions["Mesh_172_18_0_3"]
    assert "neighbor fd00::4 as 64512;\n  direct;\n  ipv6 {" in sessions["Mesh_fd00__4"]


def test_a_node_announces_its_own_prefixes_only() -> None:
    """In a full mesh nobody passes on what others have announced."""
    text = bird_config(SPEAKER)
    announced = blocks(text, "protocol static")
    assert "route 10.244.2.0/24 blackhole;" in announced["announced4"]
    assert "route fd01:2::/64 blackhole;" in announced["announced6"]
    assert set(re.findall(r"export where source ~ \[ (.*?) \]", text)) == {"RTS_STATIC"}


def test_the_kernel_gets_learned_routes_and_blackholes() -> None:
    """The prefix of a bridge has a route already; a block of addresses has none."""
    kernel = blocks(bird_config(SPEAKER), "protocol kernel")
    assert "export where source = RTS_BGP;" in kernel["kernel4"]
    blocked = Speaker("1.2.3.4", ("172.18.0.2",), (), blackholes=("10.244.2.0/26",))
    text = bird_config(blocked)
    assert "route 10.244.2.0/26 blackhole;" in blocks(text, "protocol static")["blackholes4"]
    kernel = blocks(text, "protocol kernel")
    assert 'source = RTS_BGP || proto = "blackholes4";' in kernel["kernel4"]
    assert "ipv6" not in text


def test_a_route_reflector_passes_on_what_its_clients_announce() -> None:
    """A client does not."""
    clients = tuple(Peer(f"Node_{n}", f"172.18.0.{n}", is_client=True) for n in (3, 4))
    reflector = bird_config(Speaker("172.18.0.2", ("172.18.0.2",), clients))
    for session in blocks(reflector, "protocol bgp").values():
        assert "rr client;" in session
        assert "RTS_STATIC, RTS_BGP" in session
    client = bird_config(Speaker("172.18.0.3", ("172.18.0.3",), (Peer("Node_2", "172.18.0.2"),)))
    assert "rr client" not in client
    assert "RTS_STATIC, RTS_BGP" not in client


def test_an_external_peer_has_its_own_as_number() -> None:
    """It may be several hops away."""
    peer = Peer("Global_1", "192.0.2.1", 65000, is_direct=False, gets_learned=True)
    speaker = Speaker("172.18.0.2", ("172.18.0.2",), (peer,), as_number=64600)
    text = bird_config(speaker)
    assert "local 172.18.0.2 as 64600;" in text
    session = blocks(text, "protocol bgp")["Global_1"]
    assert "neighbor 192.0.2.1 as 65000;\n  multihop;" in session
    assert "RTS_STATIC, RTS_BGP" in session


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["172.18.0.2", "fd00::2"], "172.18.0.2"),
        (["fd00::2", "172.18.0.2"], "172.18.0.2"),
        (["fd00:172:18::1:a"], "0.1.0.10"),
    ],
)
def test_a_router_id_is_an_ipv4_address(addresses: list[str], expected: str) -> None:
    """An IPv6 node has one, too."""
    assert router_id(addresses) == expected


def test_bird_reads_its_file_and_is_told_of_changes() -> None:
    """Another configuration reloads BIRD; `birdc` finds its socket without an option."""
    file, daemon = bird.bird("node/a", SPEAKER, ["10.244.3.0/24"])
    assert isinstance(file, File)
    assert isinstance(daemon, Daemon)
    assert daemon.files == (file.path,)
    assert isinstance(daemon.reload, ControlSocket)
    assert daemon.reload.path == "/run/bird/bird.ctl"
    assert daemon.provides == ("10.244.3.0/24",)
    fewer = Speaker(SPEAKER.router_id, SPEAKER.addresses, SPEAKER.peers[:-1], SPEAKER.announced)
    _, changed = bird.bird("node/a", fewer, ["10.244.3.0/24"])
    assert isinstance(changed, Daemon)
    assert changed.argv == daemon.argv
    assert changed.revision != daemon.revision


def test_neighbors_with_a_port_are_listed() -> None:
    """The log and the readiness of the agent name them, too."""
    peers = (Peer("Node_1", "192.0.2.1", 65000, port=1790), Peer("Node_2", "192.0.2.2"))
    speaker = Speaker("172.18.0.2", ("172.18.0.2",), peers)
    assert bird.neighbors(bird.bird("node/a", speaker, ())) == ["192.0.2.1", "192.0.2.2"]
