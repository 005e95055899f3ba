"""No space left where labs keep their files: a small tmpfs over the run directory's base, in mount
namespaces of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OURS
from tests.labs.lab import Lab, wait_for
from tests.labs.test_life import MANIFEST, web_answers

SIZE = 256 * 1024
PAGE = 4096
LARGER = MANIFEST.replace("replicas: 4", "replicas: 6")

MOUNTED = f"""
mkdir -p /run/kubenetlab
mount -t tmpfs -o size={SIZE},mode=0755 tmpfs /run/kubenetlab
echo mounted
exec cat
"""


class LabOnSmallDisk(Lab):
    """A lab whose commands see another file system at /run/kubenetlab."""

    def __init__(self, name: str, holder: int) -> None:
        super().__init__(name, ("nsenter", f"--target={holder}", "--mount"))
        self.filler = Path(f"/proc/{holder}/root/run/kubenetlab/filler")

    @property
    def directory(self) -> Path:
        return self.filler.with_name(self.name)

    def fill(self, free: int = 0) -> None:
        """Leaves so many bytes free; 0: none at all."""
        fd = os.open(self.filler, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            while True:
                os.write(fd, b"\0" * PAGE)
        except OSError:
            os.ftruncate(fd, os.fstat(fd).st_size - free)
        finally:
            os.close(fd)

    def make_space(self) -> None:
        self.filler.unlink()


@pytest.fixture
def cramped() -> Iterator[LabOnSmallDisk]:
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", MOUNTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n"
        lab = LabOnSmallDisk(f"{OURS}cramped", holder.pid)
        try:
            yield lab
        finally:
            lab.down()
            assert not lab.remains
            holder.kill()


@pytest.mark.parametrize("pages", [0, 1, 2, 4, 8, 12])
def test_an_up_on_a_full_disk(cramped: LabOnSmallDisk, pages: int) -> None:
    """It says which file could not be written, wherever the space ends, and leaves nothing."""
    cramped.fill(free=pages * PAGE)
    said = cramped.up(MANIFEST, status=1)
    assert len(said.err.splitlines()) <= 3, said.err
    assert f"/run/kubenetlab/{cramped.name}" in said.err
    assert "No space left on device" in said.err
    assert "bug" not in said.err
    assert not cramped.remains
    cramped.make_space()
    cramped.up(MANIFEST)
    assert web_answers(cramped)


def test_a_disk_that_runs_full_under_a_lab(cramped: LabOnSmallDisk) -> None:
    """What runs goes on, names are resolved, dead agents come back; a change is refused, and can be
    made when there is space.
    """
    cramped.up(MANIFEST)
    before = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in cramped.seen["pods"]}
    cramped.fill()
    assert web_answers(cramped)
    cramped.run("ping")
    for refused in (
        cramped.apply(LARGER, status=1),
        cramped.run("scale", "deployment", "web", "--replicas", "6", status=1),
        cramped.run("delete", "service", "web", status=1),
    ):
        assert "nothing was changed: the lab's store cannot be written" in refused.err
        assert f"/run/kubenetlab/{cramped.name}/store.json: No space left on device" in refused.err
    for role in ("agent", "node-agent"):
        cramped.kill(role)
    assert web_answers(cramped)
    cramped.make_space()
    cramped.apply(LARGER)
    assert not cramped.faults
    after = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in cramped.seen["pods"]}
    assert len(after) == len(before) + 2
    assert before.items() <= after.items()


def test_a_pod_that_dies_while_the_disk_is_full(cramped: LabOnSmallDisk) -> None:
    """What is to become of it cannot be written down, which is told; it is made anew by itself when
    there is space.
    """
    cramped.up(MANIFEST)
    pod = cramped.pod("web")
    cramped.fill()
    (victim,) = cramped.pids(f"{cramped.name}/{pod['sandbox']}")
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: "store.json: No space left on device" in cramped.run("diff", status=1).err,
        "the word of it",
    )
    cramped.kill("agent")
    wait_for(
        lambda: "store.json: No space left on device" in cramped.run("diff", status=1).err,
        "the same word from the next agent",
    )
    cramped.make_space()
    wait_for(lambda: not cramped.faults, "the pod")
    assert cramped.pod(pod["name"])["addresses"] != pod["addresses"]
