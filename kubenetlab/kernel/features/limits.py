"""Limits: what this machine has so much of and no more, and whether a lab fits in.

The pure part compares what a lab needs with what is allowed; the other reads what is allowed, from files of the kernel alone.
A limit that is hit in the middle of the work shows as an errno that names something else (ENOSPC for namespaces, EAGAIN for
processes), so all are looked at before the work begins.
Source: namespaces(7); getrlimit(2); Documentation/admin-guide/cgroup-v2.rst, sysctl/user.rst, sysctl/kernel.rst (6.12).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from kubenetlab.errors import RequirementError
from kubenetlab.kernel.processes.permissions import is_first_user_namespace

PROCESSES, FILES, MEMORY = "processes", "open files of one process", "MB of memory"
ADDRESS_SPACE = "MB of address space of one process"
BRIDGE_PORTS, NEIGHBORS = "ports of one bridge", "dynamic neighbours"
NAMESPACES: Final[Mapping[str, str]] = {
    "user": "user namespaces",
    "net": "network namespaces",
    "pid": "PID namespaces",
    "uts": "UTS namespaces",
    "ipc": "IPC namespaces",
    "mnt": "mount namespaces",
}
"""The kernel's word in `user.max_…_namespaces` → what is counted."""

MAX_BRIDGE_PORTS: Final = 1023
"""Source: net/bridge/br_private.h BR_MAX_PORTS, br_if.c find_portno() (6.12): number 0 is nobody's."""
_UNLIMITED = 2**62
"""What is larger is no limit: cgroup v1 has the largest number of pages."""


class Limit(Struct, frozen=True):
    """So much there is of something."""

    resource: str
    maximum: int
    setting: str
    """What sets it, as one would look it up: `kernel.pid_max`."""
    remedy: str = ""
    """How to get more; `{enough}` stands for what would do."""
    used: int | None = None
    """How much of it is taken, by everybody; None where the kernel does not tell."""

    @property
    def room(self) -> int:
        return max(0, self.maximum - (self.used or 0))


class Need(Struct, frozen=True):
    """So much of something a lab takes."""

    resource: str
    amount: int
    whose: str = ""
    """Where one part of the lab is the reason: `cbr0 of node n1`."""


class Shortfall(Struct, frozen=True):
    """A need that is above a limit."""

    need: Need
    limit: Limit

    def __str__(self) -> str:
        whose = f" ({self.need.whose})" if self.need.whose else ""
        used = f", {self.limit.used:,} of them taken" if self.limit.used else ""
        enough = self.need.amount + (self.limit.used or 0)
        text = f"{self.limit.resource}{whose}: {self.need.amount:,} needed; {self.limit.setting} is {self.limit.maximum:,}{used}"
        return (
            f"{text}\n    → {self.limit.remedy.format(enough=enough)}"
            if self.limit.remedy
            else text
        )


def shortfalls(
    needs: Iterable[Need], limits: Iterable[Limit], had: Iterable[Need] = ()
) -> list[Shortfall]:
    """Every need that is above a limit, in the order of the limits.

    `had` is what the lab has already: it is part of what is taken, where the kernel tells that.
    """
    wanted = {need.resource: need for need in needs}
    before = {need.resource: need.amount for need in had}
    found = []
    for limit in limits:
        need = wanted.get(limit.resource)
        if need is not None and limit.used is not None:
            need = structs.replace(need, amount=need.amount - before.get(need.resource, 0))
        if need is not None and need.amount > limit.room:
            found.append(Shortfall(need, limit))
    return found


def require_room(
    lab: str, what: str, needs: Iterable[Need], limits: Iterable[Limit], had: Iterable[Need] = ()
) -> None:
    """Raises RequirementError, naming everything that a lab needs more of than there is. `what` says how large it is."""
    found = shortfalls(needs, limits, had)
    if found:
        lines = "".join(f"\n  {shortfall}" for shortfall in found)
        raise RequirementError(
            f"lab {lab} does not fit on this machine: {what}{lines}\n  nothing was changed; see kubenetlab doctor"
        )


def measured_anew(limits: Iterable[Limit], now: Iterable[Limit]) -> list[Limit]:
    """Limits with what is taken now. Their maxima stay: inside a lab's own namespaces some of them look like none."""
    used = {(limit.resource, limit.setting): limit.used for limit in now}
    return [
        structs.replace(limit, used=used.get((limit.resource, limit.setting), limit.used))
        for limit in limits
    ]


def read(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> list[Limit]:
    """The limits for who asks, here and now. `proc` and `cgroups` are where those are mounted."""
    return [limit for limit in _all(Path(proc), Path(cgroups)) if limit.maximum < _UNLIMITED]


def _all(proc: Path, cgroups: Path) -> Iterator[Limit]:
    kernel = proc / "sys" / "kernel"
    tasks = _tasks(proc)
    yield from _setting(PROCESSES, kernel / "pid_max", "kernel.pid_max", tasks)
    yield from _setting(PROCESSES, kernel / "threads-max", "kernel.threads-max", tasks)
    if os.geteuid() or not is_first_user_namespace(proc):  # root of the machine is above it
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)  # a lab raises its soft limits
        if hard != resource.RLIM_INFINITY:
            remedy = "as root: ulimit -Hu {enough}, or nproc in /etc/security/limits.conf (LimitNPROC= of a systemd unit)"
            yield Limit(
                PROCESSES, hard, "this user's hard RLIMIT_NPROC", remedy, _own_processes(proc)
            )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        remedy = "as root: ulimit -Hn {enough}, or nofile in /etc/security/limits.conf (LimitNOFILE= of a systemd unit)"
        yield Limit(FILES, hard, "the hard RLIMIT_NOFILE", remedy)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        yield Limit(ADDRESS_SPACE, space >> 20, "RLIMIT_AS (ulimit -v)", "ulimit -v unlimited")
    for word, counted in NAMESPACES.items():
        yield from _setting(
            counted, proc / "sys" / "user" / f"max_{word}_namespaces", f"user.max_{word}_namespaces"
        )
    yield from _setting(
        NEIGHBORS,
        proc / "sys/net/ipv4/neigh/default/gc_thresh3",
        "net.ipv4.neigh.default.gc_thresh3",
    )
    yield Limit(
        BRIDGE_PORTS, MAX_BRIDGE_PORTS, "the kernel's bridge", "more nodes, or fewer pods on each"
    )
    total, available = _memory(proc)
    if total:
        yield Limit(
            MEMORY,
            total,
            "this machine's memory",
            "fewer pods, or a machine with more memory",
            total - available,
        )
    yield from _of_cgroups(proc, cgroups)


def _setting(counted: str, path: Path, name: str, used: int | None = None) -> Iterator[Limit]:
    value = _number(path)
    if value is not None:
        yield Limit(counted, value, name, f"sudo sysctl -w {name}={{enough}}", used)


def _of_cgroups(proc: Path, cgroups: Path) -> Iterator[Limit]:
    """The tightest of the cgroups that this process is in, from its own up to the root."""
    for controller, directories in _cgroup_directories(proc, cgroups):
        pids = [
            Limit(
                PROCESSES,
                maximum,
                f"pids.max of {directory}",
                "a higher one: TasksMax= of a systemd unit, docker run --pids-limit {enough}",
                _number(directory / "pids.current"),
            )
            for directory in directories
            if controller in ("", "pids")
            and (maximum := _number(directory / "pids.max")) is not None
        ]
        memory = [
            limit
            for directory in directories
            if controller in ("", "memory")
            for limit in _memory_of(directory)
        ]
        for limits in (pids, memory):
            if found := [limit for limit in limits if limit.maximum < _UNLIMITED]:
                yield min(found, key=lambda limit: limit.room)


def _memory_of(directory: Path) -> Iterator[Limit]:
    """A cgroup's limit of memory, in either version's files. What files have in the cache is no hindrance."""
    for maximum_file, used_file, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        maximum, used = _number(directory / maximum_file), _number(directory / used_file)
        if maximum is not None and used is not None and maximum < _UNLIMITED:
            cached = next(
                (
                    int(line.split()[1])
                    for line in _lines(directory / "memory.stat")
                    if line.startswith(f"{cache} ")
                ),
                0,
            )
            remedy = "a higher one: MemoryMax= of a systemd unit, docker run --memory {enough}m"
            yield Limit(
                MEMORY,
                maximum >> 20,
                f"{maximum_file} of {directory}",
                remedy,
                max(0, used - cached) >> 20,
            )


def _cgroup_directories(proc: Path, cgroups: Path) -> Iterator[tuple[str, Sequence[Path]]]:
    """(controller, directories from our cgroup up to the root); the controller is empty for version 2, which has all in one."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and not {"pids", "memory"} & set(controllers.split(",")):
            continue
        mounts = [cgroups / controllers] if controllers else [cgroups, cgroups / "unified"]
        for root in mounts:
            here = Path(os.path.normpath(f"{root}/{path}"))
            above = [
                directory
                for directory in (here, *here.parents)
                if directory == root or root in directory.parents
            ]
            yield controllers, [directory for directory in above if directory.is_dir()]


def _tasks(proc: Path) -> int | None:
    """How many threads the machine has: the second half of `2/162` in /proc/loadavg."""
    fields = " ".join(_lines(proc / "loadavg")).split()
    return int(fields[3].partition("/")[2]) if len(fields) > 3 else None


def _own_processes(proc: Path) -> int:
    """How many processes this user has."""
    count = 0
    for entry in os.scandir(proc):
        try:
            count += entry.name.isdigit() and entry.stat().st_uid == os.geteuid()
        except OSError:
            continue
    return count


def _memory(proc: Path) -> tuple[int, int]:
    """(all, available) in MB."""
    found = {
        name: int(rest.split()[0]) >> 10
        for name, _, rest in (line.partition(":") for line in _lines(proc / "meminfo"))
    }
    return found.get("MemTotal", 0), found.get("MemAvailable", 0)


def _number(path: Path) -> int | None:
    """A file that holds a number; None when there is no such file, or it says `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
