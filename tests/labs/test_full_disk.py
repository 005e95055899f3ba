"""No space left for the files of labs.

A small tmpfs is mounted over the base of the run directory, in a private mount namespace.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LAB_PREFIX
from tests.labs.lab import Lab, wait_for
from tests.labs.web_lab import MANIFEST, web_answers

SIZE = 256 * 1024
PAGE = 4096
LARGER = MANIFEST.replace("replicas: 4", "replicas: 6")

MOUNT_SCRIPT = f"""
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
        """Fill the file system except for a number of bytes."""
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
def small_lab() -> Iterator[LabOnSmallDisk]:
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", MOUNT_SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n"
        lab = LabOnSmallDisk(f"{LAB_PREFIX}cramped", holder.pid)
        try:
            yield lab
        finally:
            lab.down()
            assert not lab.leftovers
            holder.kill()


@pytest.mark.parametrize("pages", [0, 1, 2, 4, 8, 12])
def test_up_on_a_full_disk_reports_the_file_and_leaves_nothing(
    small_lab: LabOnSmallDisk, pages: int
) -> None:
    """This holds for several amounts of free space."""
    small_lab.fill(free=pages * PAGE)
    result = small_lab.up(MANIFEST, status=1)
    assert len(result.err.splitlines()) <= 3, result.err
    assert f"/run/kubenetlab/{small_lab.name}" in result.err
    assert "No space left on device" in result.err
    assert "bug" not in result.err
    assert not small_lab.leftovers
    small_lab.make_space()
    small_lab.up(MANIFEST)
    assert web_answers(small_lab)


def test_a_lab_keeps_running_when_its_disk_becomes_full(small_lab: LabOnSmallDisk) -> None:
    """Pods and names keep working, and killed agents are replaced.

    Changes are rejected until there is space again.
    """
    small_lab.up(MANIFEST)
    before = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in small_lab.inspected["pods"]}
    small_lab.fill()
    assert web_answers(small_lab)
    small_lab.run("ping")
    for refused in (
        small_lab.apply(LARGER, status=1),
        small_lab.run("scale", "deployment", "web", "--replicas", "6", status=1),
        small_lab.run("delete", "service", "web", status=1),
    ):
        assert "nothing was changed: the lab's store cannot be written" in refused.err
        assert (
            f"/run/kubenetlab/{small_lab.name}/store.json: No space left on device" in refused.err
        )
    for role in ("agent", "node-agent"):
        small_lab.kill(role)
    assert web_answers(small_lab)
    small_lab.make_space()
    small_lab.apply(LARGER)
    assert not small_lab.problems
    after = {pod["name"]: (pod["pid"], pod["addresses"]) for pod in small_lab.inspected["pods"]}
    assert len(after) == len(before) + 2
    assert before.items() <= after.items()


def test_a_pod_that_ends_on_a_full_disk_is_replaced_later(small_lab: LabOnSmallDisk) -> None:
    """Its replacement cannot be stored, which is reported.

    The pod is replaced without a request once there is space.
    """
    small_lab.up(MANIFEST)
    pod = small_lab.pod("web")
    small_lab.fill()
    (victim,) = small_lab.pids(f"{small_lab.name}/{pod['sandbox']}")
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: "store.json: No space left on device" in small_lab.run("diff", status=1).err,
        "the report",
    )
    small_lab.kill("agent")
    wait_for(
        lambda: "store.json: No space left on device" in small_lab.run("diff", status=1).err,
        "the same report of the next agent",
    )
    small_lab.make_space()
    wait_for(lambda: not small_lab.problems, "the new pod")
    assert small_lab.pod(pod["name"])["addresses"] != pod["addresses"]
