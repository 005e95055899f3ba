"""Cgroups of a lab: one for each container with a real command, to limit memory and processes.

They are created below the cgroup in which the lab runs. Where version 2 allows no cgroups with
controllers there, they are created below the nearest ancestor whose children have controllers.
Processes of others are never moved, and controllers are enabled only in cgroups of the lab and in
the root of a hierarchy.

    <parent>/kubenetlab-<lab>-<token>/<container>     version 2, and each hierarchy of version 1

Source: cgroups(7); proc_pid_mountinfo(5); Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/{memory,pids}.rst (6.12).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

MEMORY, PIDS = "memory", "pids"
CONTROLLERS: Final = (MEMORY, PIDS)
PREFIX: Final = "kubenetlab-"
REMOVAL_TIMEOUT_S = 2.0
"""Time allowed for killed processes to leave a cgroup that is removed, in seconds."""
_POLL_INTERVAL_S = 0.005
"""Time between two attempts to remove a cgroup, in seconds.

The kernel reports that a cgroup is empty only with version 2 (cgroup.events), so both versions are
polled. Killed processes leave within milliseconds.
"""


class Hierarchy(Struct, frozen=True):
    """A mounted hierarchy, and the cgroup of this process in it."""

    version: int
    controllers: tuple[str, ...]
    """Controllers of a version 1 hierarchy; empty for version 2, where each cgroup has a file of
    them."""
    root: Path
    """Mount point."""
    own: Path
    """Directory of the cgroup that this process is in."""


class Parent(Struct, frozen=True):
    """A cgroup below which the lab can create its own."""

    version: int
    directory: Path
    controllers: tuple[str, ...]
    """CONTROLLERS that are enabled for its children."""


class Limits(Struct, frozen=True):
    """Limits of one container."""

    memory: int = 0
    """Memory and swap in bytes; 0: no limit."""
    pids: int = 0
    """Number of processes and threads; 0: no limit."""


def hierarchies(cgroup: str, mountinfo: str) -> Iterator[Hierarchy]:
    """Yield the hierarchies with relevant controllers from /proc/self/cgroup and mountinfo.

    A hierarchy is left out if its mount does not contain this process's cgroup, as in a container
    that sees another part of the hierarchy.
    """
    own: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    seen: set[tuple[str, ...]] = set()
    for line in mountinfo.splitlines():
        mount_fields, _, fs_fields = line.partition(" - ")
        fields, (kind, _, options) = mount_fields.split(), fs_fields.split(" ", 2)
        names = tuple(
            name for name in CONTROLLERS if kind == "cgroup" and name in options.split(",")
        )
        if names in seen or (kind != "cgroup2" and not names):
            continue
        group = PurePosixPath(own.get(names[0] if names else "", "."))
        root, mount = _unescaped(fields[3]), Path(_unescaped(fields[4]))
        if ".." in group.parts or not group.is_relative_to(root):
            continue
        seen.add(names)
        yield Hierarchy(1 if names else 2, names, mount, mount / group.relative_to(root))


def parents(mounted: Iterable[Hierarchy]) -> list[Parent]:
    """Return where cgroups can be created, each controller once, without writing anything."""
    chosen: list[Parent] = []
    for hierarchy in mounted:
        parent = _parent_v2(hierarchy) if hierarchy.version == 2 else _parent_v1(hierarchy)
        if parent is not None and not any(
            set(parent.controllers) & set(other.controllers) for other in chosen
        ):
            chosen.append(parent)
    return chosen


def read_parents(proc: Path = Path("/proc")) -> list[Parent]:
    """Return where this process can create cgroups."""
    try:
        texts = (proc / "self/cgroup").read_text(), (proc / "self/mountinfo").read_text()
    except OSError:
        return []
    return parents(hierarchies(*texts))


class ContainerGroup:
    """Cgroups of one container, one in each hierarchy that is used."""

    def __init__(self, members: Sequence[tuple[Parent, Path]], limits: Limits) -> None:
        self._members = members
        self.limits = limits

    @property
    def entries(self) -> list[str]:
        """Return the files to which a process writes 0 to enter the cgroups."""
        return [str(directory / "cgroup.procs") for _, directory in self._members]

    @property
    def enforced(self) -> tuple[str, ...]:
        """Return the controllers that limit this container."""
        return tuple(
            name
            for parent, _ in self._members
            for name in parent.controllers
            if getattr(self.limits, name)
        )

    def oom_kills(self) -> int:
        """Return the number of processes that were killed because of the memory limit."""
        kills = 0
        for parent, directory in self._members:
            if MEMORY in parent.controllers:
                text = _read(
                    directory / ("memory.events" if parent.version == 2 else "memory.oom_control")
                )
                kills += sum(
                    int(value)
                    for name, _, value in (line.partition(" ") for line in text.splitlines())
                    if name == "oom_kill"
                )
        return kills

    def remove(self) -> bool:
        """Kill the container's remaining processes and remove its cgroups.

        Return False while a process has not left them yet.
        """
        # Try to remove each, even if one is still in use.
        removed = [_remove(directory) for _, directory in self._members]
        return all(removed)


class LabGroups:
    """Cgroups of one lab; created for the first container that needs one."""

    def __init__(
        self, name: str, parent_groups: Sequence[Parent], record: Callable[[Sequence[str]], None]
    ) -> None:
        """Prepare cgroups `name` below each parent.

        record: called with the directories before they are created, so that they can be removed
            even if this process is killed.
        """
        self._tops = [(parent, parent.directory / name) for parent in parent_groups]
        self._record = record
        self._is_made = False
        self._leaving: list[ContainerGroup] = []

    def make(self, name: str, limits: Limits) -> ContainerGroup:
        """Create a container's cgroups in the hierarchies that have something to limit.

        Raises OSError after removing what was created.
        """
        self._leaving = [group for group in self._leaving if not group.remove()]
        self._make_tops()
        used = [
            (parent, top / name)
            for parent, top in self._tops
            if any(getattr(limits, each) for each in parent.controllers)
        ]
        group = ContainerGroup(used, limits)
        try:
            for parent, directory in used:
                directory.mkdir()
                _limit(parent, directory, limits)
        except OSError:
            group.remove()
            raise
        return group

    def discard(self, group: ContainerGroup) -> None:
        """Remove a container's cgroups, now or when its last process has exited."""
        if not group.remove():
            self._leaving.append(group)

    def _make_tops(self) -> None:
        if self._is_made:
            return
        self._record([str(top) for _, top in self._tops])
        for parent, top in self._tops:
            if parent.version == 2 and (
                missing := set(parent.controllers)
                - set(_read_words(parent.directory / "cgroup.subtree_control"))
            ):
                _write(
                    parent.directory / "cgroup.subtree_control",
                    " ".join(f"+{name}" for name in sorted(missing)),
                )
            top.mkdir(exist_ok=True)
            if parent.version == 2:
                _write(
                    top / "cgroup.subtree_control",
                    " ".join(f"+{name}" for name in parent.controllers),
                )
        self._is_made = True


def enter(entries: Iterable[str]) -> None:
    """Move this process into a container's cgroups. Raises OSError."""
    for entry in entries:
        _write(Path(entry), "0")


def remove_all(tops: Iterable[str]) -> list[str]:
    """Remove the cgroups of a lab whose processes are dead; return those that remain.

    The limit for all of them is REMOVAL_TIMEOUT_S.
    """
    deadline = time.monotonic() + REMOVAL_TIMEOUT_S
    remaining = []
    for top in (Path(text) for text in tops if Path(text).name.startswith(PREFIX)):
        while not (is_gone := _remove_tree(top)) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL_S)
        remaining += [] if is_gone else [str(top)]
    return remaining


def _remove_tree(top: Path) -> bool:
    try:
        children = [entry for entry in top.iterdir() if entry.is_dir()]
    except OSError:
        return not top.exists()
    removed = [_remove(child) for child in children]
    return all(removed) and _remove(top)


def _parent_v1(hierarchy: Hierarchy) -> Parent | None:
    is_writable = os.access(hierarchy.own, os.W_OK | os.X_OK)
    return Parent(1, hierarchy.own, hierarchy.controllers) if is_writable else None


def _parent_v2(hierarchy: Hierarchy) -> Parent | None:
    """Return the nearest cgroup whose children have a controller, upwards from this process's."""
    for directory in (hierarchy.own, *hierarchy.own.parents):
        if os.access(directory, os.W_OK | os.X_OK) and os.access(
            directory / "cgroup.procs", os.W_OK
        ):
            # A cgroup with processes cannot enable controllers, and each of these has this
            # process in it or in its children; the root is exempt.
            is_root = not (directory / "cgroup.type").exists()
            available = set(
                _read_words(
                    directory / ("cgroup.controllers" if is_root else "cgroup.subtree_control")
                )
            )
            if controllers := tuple(name for name in CONTROLLERS if name in available):
                return Parent(2, directory, controllers)
        if directory == hierarchy.root:
            break
    return None


def _limit(parent: Parent, directory: Path, limits: Limits) -> None:
    if limits.memory and MEMORY in parent.controllers:
        if parent.version == 2:
            _write(directory / "memory.max", str(limits.memory))
            _write_if_exists(directory / "memory.swap.max", "0")
            # Kill the whole container at once, as the kubelet does since 1.28.
            _write_if_exists(directory / "memory.oom.group", "1")
        else:
            _write(directory / "memory.limit_in_bytes", str(limits.memory))
            # Memory and swap together.
            _write_if_exists(directory / "memory.memsw.limit_in_bytes", str(limits.memory))
    if limits.pids and PIDS in parent.controllers:
        _write(directory / "pids.max", str(limits.pids))


def _remove(directory: Path) -> bool:
    """Kill the processes of a cgroup and remove it; return False if it is still in use."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            return False
        for pid in _read_words(directory / "cgroup.procs"):
            if int(pid) > 0:  # 0: a process of another PID namespace
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(pid), signal.SIGKILL)
        return False
    return True


def _write_if_exists(path: Path, text: str) -> None:
    if path.exists():
        _write(path, text)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_words(path: Path) -> list[str]:
    return _read(path).split()


def _unescaped(field: str) -> str:
    """Decode the octal escapes of a path in mountinfo."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
