"""CNI plugins can change their node and its pods, and nothing else of the machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LAB_PREFIX
from tests.labs.lab import Lab, wait_for
from tests.labs.plugin_lists import cluster, configuration, needs_plugins, pods
from tests.labs.users import User, UsersLab

PROBE = """#!/bin/sh
{
    echo netns $(readlink /proc/self/ns/net)
    echo uid $(id -u)
    echo capabilities $(sed -n 's/CapBnd:\\t//p' /proc/self/status)
    for path in /usr/knl-probe /etc/knl-probe /opt/knl-probe; do
        echo x 2>/dev/null > $path && echo wrote $path
    done
    echo 1 2>/dev/null > /proc/sys/kernel/sysrq && echo wrote sysrq
    mknod /var/lib/cni/disk b 8 0 2>/dev/null && echo made device
    mount -t tmpfs tmpfs /mnt 2>/dev/null && umount /mnt && echo mounted
    iptables -N KNL-PROBE 2>/dev/null && echo made chain
    ip link add knl-probe type veth peer name knl-peer && echo made link
    env | grep SECRET
    ls /proc | grep -c '^[0-9]'
} > /var/lib/cni/probe.new 2>&1
mv /var/lib/cni/probe.new /var/lib/cni/probe
echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.7.0.5/24"}]}'
"""


@pytest.fixture(params=["root", "ordinary user"])
def any_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Yield a lab of root or of an ordinary user; it is removed afterwards."""
    if request.param == "root":
        yield request.getfixturevalue("lab")
        return
    user: User = request.getfixturevalue("nobody")
    lab = UsersLab(f"{LAB_PREFIX}i", user)
    try:
        yield lab
    finally:
        lab.down()


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a directory with the plugin `probe` that every user can read."""
    folder = Path(f"/opt/{LAB_PREFIX}plugins")
    folder.mkdir(mode=0o755)
    try:
        (folder / "probe").write_text(PROBE)
        (folder / "probe").chmod(0o755)
        yield folder
    finally:
        (folder / "probe").unlink()
        folder.rmdir()


def machine_state() -> dict[str, Any]:
    """Return what plugins would change on the machine if they were not confined."""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=False)
    return {
        "rules": [line for line in rules.splitlines() if "CNI-" in line or "KNL-" in line],
        "links": [line for line in links.stdout.splitlines() if line.startswith(("cni0", "knl"))],
        "files": [*os.walk("/var/lib/cni"), *os.walk("/etc/cni")],
    }


def test_a_plugin_is_confined_to_its_node(any_lab: Lab, programs: Path) -> None:
    """It is root there, may configure the network, and sees the machine's files read-only."""
    before = machine_state()
    os.environ["KUBENETLAB_SECRET"] = "SECRET"
    try:
        mode = configuration({"type": "probe"}, binDirs=[str(programs)])
        manifest = cluster(mode) + pods(("a", "worker"))
        any_lab.run("up", "-f", "-", "--timeout", "3", stdin=manifest, status=None)
    finally:
        del os.environ["KUBENETLAB_SECRET"]
    report = any_lab.directory / "files/node_worker/var/lib/cni/probe"
    lines = wait_for(lambda: report.exists() and report.read_text().splitlines(), "the plugin")
    node = any_lab.place("nodes", "worker")
    netns = os.stat(node["netns"]).st_ino
    assert lines[:2] == [f"netns net:[{netns}]", "uid 0"]
    capabilities = int(lines[2].split()[1], 16)
    forbidden = {"SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_BOOT": 22, "BPF": 39}
    assert [name for name, bit in forbidden.items() if capabilities >> bit & 1] == []
    # A mount is visible to the plugin alone.
    assert lines[3:-1] == ["mounted", "made chain", "made link"]
    assert machine_state() == before


@needs_plugins
def test_real_plugins_leave_the_machine_alone(any_lab: Lab) -> None:
    """Rules of portmap are the node's, and addresses of host-local are files of the node."""
    before = machine_state()
    ports = [{"containerPort": 8080, "hostPort": 8081}]
    any_lab.run("up", "-f", "-", stdin=cluster("conflist") + pods(("a", "worker"), ports=ports))
    rules = any_lab.inside(any_lab.place("nodes", "worker"), "iptables-save", "-t", "nat")
    assert "CNI-HOSTPORT-DNAT" in rules
    assert machine_state() == before
    any_lab.run("delete", "pod", "a")
    any_lab.down()
    assert machine_state() == before
    assert not any_lab.directory.exists()
