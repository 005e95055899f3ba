"""The cgroups of a lab, on files that imitate cgroupfs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kubenetlab.kernel.processes import cgroups
from kubenetlab.kernel.processes.cgroups import (
    Hierarchy,
    LabGroups,
    Limits,
    Parent,
    hierarchies,
    parents,
    remove_all,
)
from kubenetlab.kernel.processes.limiters import has_groups, limiters
from kubenetlab.kernel.processes.rlimits import limits_processes

SYSTEMD = (
    "0::/user.slice/user-1000.slice/session-3.scope\n",
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - "
    "cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
)
CONTAINER = ("0::/\n", "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n")
OUTSIDE_MOUNT = ("0::/../other\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
VERSION_1 = (
    "9:name=systemd:/\n4:cpu,cpuacct:/docker/a\n3:pids:/docker/a\n2:memory:/docker/a/b\n0::/\n",
    "32 31 0:29 /docker/a /sys/fs/cgroup/memory\\040all rw - cgroup cgroup rw,memory\n"
    "33 31 0:30 / /sys/fs/cgroup/pids rw - cgroup pids rw,pids\n"
    "34 31 0:30 / /elsewhere/pids rw - cgroup pids rw,pids\n"
    "35 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "36 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (SYSTEMD, [(2, (), "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope")]),
        (CONTAINER, [(2, (), "/sys/fs/cgroup")]),
        (OUTSIDE_MOUNT, []),
        (("", SYSTEMD[1]), []),
        (
            VERSION_1,
            [
                (1, ("memory",), "/sys/fs/cgroup/memory all/b"),
                (1, ("pids",), "/sys/fs/cgroup/pids/docker/a"),
                (2, (), "/sys/fs/cgroup/unified"),
            ],
        ),
    ],
    ids=["systemd", "container", "outside the mount", "no cgroups", "version 1"],
)
def test_hierarchies_contain_the_cgroup_of_this_process(
    texts: tuple[str, str], expected: Sequence[tuple[int, tuple[str, ...], str]]
) -> None:
    """Version 1 has a hierarchy per controller. A mount may show only a part of a hierarchy."""
    assert [
        (each.version, each.controllers, str(each.own)) for each in hierarchies(*texts)
    ] == expected


def group(
    directory: Path, controllers: str = "", enabled: str = "", *, is_root: bool = False
) -> Path:
    """Create files like those of a version 2 cgroup."""
    directory.mkdir()
    for name, text in (
        ("cgroup.controllers", controllers),
        ("cgroup.subtree_control", enabled),
        ("cgroup.procs", ""),
    ):
        (directory / name).write_text(text)
    if not is_root:
        (directory / "cgroup.type").write_text("domain\n")
    return directory


def parent_of(own: Path, root: Path) -> list[Parent]:
    return parents([Hierarchy(2, (), root, own)])


def test_v2_uses_the_nearest_cgroup_whose_children_have_controllers(tmp_path: Path) -> None:
    """A cgroup with processes cannot enable controllers, so a session's go beside the session."""
    root = group(tmp_path / "root", "cpu memory pids", "memory pids", is_root=True)
    slice_ = group(root / "user.slice", "memory pids", "memory pids")
    scope = group(slice_ / "session.scope", "memory pids", "")
    assert parent_of(scope, root) == [Parent(2, slice_, ("memory", "pids"))]
    (slice_ / "cgroup.subtree_control").write_text("pids")
    assert parent_of(scope, root) == [Parent(2, slice_, ("pids",))]


def test_the_root_of_v2_can_enable_controllers(tmp_path: Path) -> None:
    """Only the root may have processes and controllers; a container's root cgroup is not it."""
    root = group(tmp_path / "root", "memory pids", "", is_root=True)
    assert parent_of(root, root) == [Parent(2, root, ("memory", "pids"))]
    (root / "cgroup.type").write_text("domain\n")
    assert parent_of(root, root) == []


def test_cgroups_above_the_mount_are_not_used(tmp_path: Path) -> None:
    """Such a cgroup is ignored even if its children have controllers."""
    above = group(tmp_path / "above", "memory pids", "memory pids")
    root = group(above / "root", "memory pids", "")
    assert parent_of(root, root) == []


def test_a_controller_of_v1_is_not_used_in_v2(tmp_path: Path) -> None:
    """A controller is in one hierarchy at a time; a cgroup that is not writable is ignored."""
    memory, unified = tmp_path / "memory", group(tmp_path / "unified", "pids", "", is_root=True)
    memory.mkdir()
    result = parents(
        [
            Hierarchy(1, ("memory",), memory, memory),
            Hierarchy(1, ("pids",), tmp_path, tmp_path / "no"),
            Hierarchy(2, (), unified, unified),
        ]
    )
    assert result == [Parent(1, memory, ("memory",)), Parent(2, unified, ("pids",))]


def test_limiters_are_cgroups_or_rlimits() -> None:
    """RLIMIT_NPROC works only in a user namespace."""
    both = Parent(2, Path("/g"), ("memory", "pids"))
    assert has_groups(limiters([both]))
    assert limiters([both])["memory"] == "a cgroup (version 2) below /g"
    without = limiters([], has_nproc=False)
    assert (dict(without), has_groups(without)) == (
        {"memory": "RLIMIT_DATA of each process", "pids": ""},
        False,
    )
    assert (
        limiters([Parent(1, Path("/m"), ("memory",))], has_nproc=True)["pids"]
        == "RLIMIT_NPROC of the lab's user"
    )


@pytest.mark.parametrize(
    ("release", "works"),
    [("5.10.0-28-amd64", False), ("5.14.0", True), ("6.1.0-18", True), ("odd", False)],
)
def test_processes_are_counted_per_user_namespace_since_linux_5_14(
    release: str, works: bool
) -> None:
    """Older kernels count the user's processes on the whole machine."""
    assert limits_processes(release, in_new_namespace=True) == works


class FakeFiles:
    """Directories that act like cgroupfs: files are created and removed with their directory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> None:
        self.written: dict[str, str] = {}
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(path: Path, **kwargs: bool) -> None:
            mkdir(path, **kwargs)
            for name in names:
                (path / name).write_text("")

        def remove(path: Path) -> None:
            for name in names:
                (path / name).unlink(missing_ok=True)
            rmdir(path)

        def write(path: Path, text: str) -> None:
            assert path.exists(), path
            self.written[f"{path.parent.name}/{path.name}"] = text

        monkeypatch.setattr(Path, "mkdir", make)
        monkeypatch.setattr(Path, "rmdir", remove)
        monkeypatch.setattr(cgroups, "_write", write)


FILES_V2 = (
    "cgroup.procs",
    "cgroup.subtree_control",
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
    "memory.events",
    "pids.max",
)


def test_a_container_in_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap counts as memory, and the whole container is killed at once.

    The directories are recorded before they are created.
    """
    parent = Parent(2, group(tmp_path / "parent", "memory pids", "pids"), ("memory", "pids"))
    files = FakeFiles(monkeypatch, FILES_V2)
    recorded: list[str] = []

    def record(directories: Sequence[str]) -> None:
        assert not any(Path(directory).exists() for directory in directories)
        recorded.extend(directories)

    groups = LabGroups("kubenetlab-x-1", [parent], record)
    container = groups.make("main-1", Limits(64 << 20, 100))
    assert recorded == [str(tmp_path / "parent/kubenetlab-x-1")]
    assert files.written == {
        "parent/cgroup.subtree_control": "+memory",
        "kubenetlab-x-1/cgroup.subtree_control": "+memory +pids",
        "main-1/memory.max": str(64 << 20),
        "main-1/memory.swap.max": "0",
        "main-1/memory.oom.group": "1",
        "main-1/pids.max": "100",
    }
    assert container.entries == [str(tmp_path / "parent/kubenetlab-x-1/main-1/cgroup.procs")]
    assert container.enforced == ("memory", "pids")
    events = tmp_path / "parent/kubenetlab-x-1/main-1/memory.events"
    assert container.oom_kills() == 0
    events.write_text("low 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n")
    assert container.oom_kills() == 2
    groups.discard(container)
    assert remove_all(recorded) == []
    assert [entry.name for entry in (tmp_path / "parent").iterdir() if entry.is_dir()] == []


def test_a_container_in_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has a cgroup only in hierarchies that limit something."""
    files = FakeFiles(
        monkeypatch,
        (
            "cgroup.procs",
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.oom_control",
            "pids.max",
        ),
    )
    for name in ("memory", "pids"):
        (tmp_path / name).mkdir()
    groups = LabGroups(
        "kubenetlab-x-1",
        [Parent(1, tmp_path / name, (name,)) for name in ("memory", "pids")],
        lambda _: None,
    )
    assert groups.make("main-1", Limits(0, 100)).enforced == ("pids",)
    assert not (tmp_path / "memory/kubenetlab-x-1/main-1").exists()
    container = groups.make("main-2", Limits(1 << 20, 100))
    assert files.written == {
        "main-1/pids.max": "100",
        "main-2/memory.limit_in_bytes": str(1 << 20),
        "main-2/memory.memsw.limit_in_bytes": str(1 << 20),
        "main-2/pids.max": "100",
    }
    (tmp_path / "memory/kubenetlab-x-1/main-2/memory.oom_control").write_text(
        "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
    )
    assert container.oom_kills() == 1


def test_only_cgroups_of_labs_are_removed(tmp_path: Path) -> None:
    """The record may name others."""
    other = tmp_path / "system.slice"
    other.mkdir()
    assert remove_all([str(other), str(tmp_path / "kubenetlab-gone")]) == []
    assert other.exists()


def real_parents() -> list[Parent]:
    return cgroups.read_parents()


@pytest.mark.skipif(
    not real_parents(),
    reason="no cgroup can be made here: as root, or systemd-run --user --scope -p Delegate=yes",
)
def test_remaining_processes_of_a_cgroup_are_killed() -> None:
    """Daemons may outlive a container's main process; the cgroup is removed after they exit."""
    tops: list[str] = []
    groups = LabGroups(f"kubenetlab-unit-{time.monotonic_ns()}", real_parents(), tops.extend)
    try:
        container = groups.make("main-1", Limits(0, 100))
        with subprocess.Popen(["sleep", "1000"]) as daemon:
            for entry in container.entries:
                Path(entry).write_text(str(daemon.pid))
            groups.discard(container)
            assert daemon.wait(10) == -9
    finally:
        assert remove_all(tops) == []
    assert not any(Path(top).exists() for top in tops)
