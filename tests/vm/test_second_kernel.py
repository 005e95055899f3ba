"""A whole lab on Debian's kernel, provisioned by scripts/provision.

Pods are on a bridge, or routed if br_netfilter is missing.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenetlab.kernel.features.detection import has_br_netfilter
from tests.conftest import LAB_PREFIX
from tests.labs.lab import Lab

pytestmark = pytest.mark.vm

PROXIES = ("nftables", "ebpf")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Yield a lab that is not up yet; remove it after the test."""
    lab = Lab(f"{LAB_PREFIX}vm")
    yield lab
    if lab.directory.exists():
        lab.down()


@pytest.fixture
def without_br_netfilter() -> Iterator[None]:
    """Remove br_netfilter during the test, as on a machine that is not provisioned."""
    subprocess.run(["modprobe", "-r", "br_netfilter"], check=True)
    assert not has_br_netfilter()
    yield
    subprocess.run(["modprobe", "br_netfilter"], check=True)


def test_the_machine_is_provisioned() -> None:
    """The command is available to all users; br_netfilter is loaded, also after a reboot."""
    assert platform.release().endswith("-cloud-amd64")
    assert has_br_netfilter()
    assert Path("/etc/modules-load.d/kubenetlab.conf").read_text() == "br_netfilter\n"
    assert Path("/usr/local/bin/kubenetlab").resolve() == Path(sys.prefix, "bin/kubenetlab")


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_quickstart_works_on_bridges(lab: Lab, proxy: str) -> None:
    """The pods of each node are on its bridge."""
    check_quickstart(lab, "onlink", proxy)


@pytest.mark.usefixtures("without_br_netfilter")
@pytest.mark.parametrize("proxy", PROXIES)
def test_the_quickstart_works_without_br_netfilter(lab: Lab, proxy: str) -> None:
    """`up` reports that nodes route their pods; Services work nevertheless."""
    assert "this kernel has no br_netfilter" in check_quickstart(lab, "routed", proxy)


def check_quickstart(lab: Lab, layout: str, proxy: str) -> str:
    """Create, check and remove the quickstart; return the output of `up`.

    All pods are ready, connectivity is as Kubernetes promises, and nothing is left.
    """
    output = lab.run("up", "--proxy", proxy).out
    inspected = lab.inspected
    assert (
        inspected["pod_layout"],
        [pod["name"] for pod in inspected["pods"] if not pod["ready"]],
    ) == (
        layout,
        [],
    )
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.live_netns_names()
    lab.down()
    assert lab.leftovers == []
    return output
