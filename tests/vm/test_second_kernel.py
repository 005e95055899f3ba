"""A whole lab on Debian's kernel, which scripts/provision has made ready: on a bridge, and routed
where br_netfilter is missing.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenetlab.kernel.features.detection import has_br_netfilter
from tests.conftest import OURS
from tests.labs.lab import Lab

pytestmark = pytest.mark.vm

PROXIES = ("nftables", "ebpf")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that is not up yet; gone after the test."""
    lab = Lab(f"{OURS}vm")
    yield lab
    if lab.directory.exists():
        lab.down()


@pytest.fixture
def without_br_netfilter() -> Iterator[None]:
    """As on a machine that nobody provisioned."""
    subprocess.run(["modprobe", "-r", "br_netfilter"], check=True)
    assert not has_br_netfilter()
    yield
    subprocess.run(["modprobe", "br_netfilter"], check=True)


def test_the_machine_is_provisioned() -> None:
    """The command is there for everybody, and br_netfilter is, now and after the next start."""
    assert platform.release().endswith("-cloud-amd64")
    assert has_br_netfilter()
    assert Path("/etc/modules-load.d/kubenetlab.conf").read_text() == "br_netfilter\n"
    assert Path("/usr/local/bin/kubenetlab").resolve() == Path(sys.prefix, "bin/kubenetlab")


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_lab_on_bridges(lab: Lab, proxy: str) -> None:
    """The quickstart, with each node's pods on its bridge."""
    works(lab, "onlink", proxy)


@pytest.mark.usefixtures("without_br_netfilter")
@pytest.mark.parametrize("proxy", PROXIES)
def test_a_lab_without_br_netfilter(lab: Lab, proxy: str) -> None:
    """The quickstart: `up` says that nodes route their pods, and Services work as well."""
    assert "this kernel has no br_netfilter" in works(lab, "routed", proxy)


def works(lab: Lab, layout: str, proxy: str) -> str:
    """From `up` to `down`: everybody is ready and reaches whom Kubernetes promises, and nothing is
    left; what `up` says.
    """
    said = lab.run("up", "--proxy", proxy).out
    seen = lab.seen
    assert (seen["pod_layout"], [pod["name"] for pod in seen["pods"] if not pod["ready"]]) == (
        layout,
        [],
    )
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.seen_names_alive()
    lab.down()
    assert lab.remains == []
    return said
