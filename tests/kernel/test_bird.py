"""BIRD accepts every configuration that is written for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kubenetlab.datapath.network.bgp import Peer, Speaker, bird_config
from kubenetlab.kernel.features.detection import has_program

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
}


@pytest.mark.parametrize("speaker", SPEAKERS.values(), ids=SPEAKERS)
def test_bird_accepts_the_configuration(speaker: Speaker, tmp_path: Path) -> None:
    """`bird -p` reads it without an error."""
    if not has_program("bird"):
        pytest.skip("needs BIRD 2 (apt-get install bird2)")
    config = tmp_path / "bird.conf"
    config.write_text(bird_config(speaker))
    checked = subprocess.run(
        ["bird", "-p", "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
