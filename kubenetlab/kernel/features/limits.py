"""Limits of this machine, and the check whether a lab fits within them.

A limit that is reached while a lab is created shows as a misleading errno (ENOSPC for namespaces,
EAGAIN for processes). All limits are therefore checked beforehand. They are read from files of the
kernel only; the comparison with a lab's needs is pure.

Source: namespaces(7); getrlimit(2); Documentation/admin-guide/cgroup-v2.rst, sysctl/user.rst,
sysctl/kernel.rst (6.12).
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
"""Kind of namespace in `user.max_…_namespaces` → resource."""

MAX_BRIDGE_PORTS: Final = 1023
"""Maximum number of ports of a bridge; port number 0 is not used.

Source: net/bridge/br_private.h BR_MAX_PORTS, br_if.c find_portno() (6.12)."""
_UNLIMITED = 2**62
"""Larger values count as no limit: cgroup v1 reports the largest number of pages."""


class Limit(Struct, frozen=True):
    """Maximum amount of a resource."""

    resource: str
    maximum: int
    setting: str
    """Name of the setting that defines the limit: `kernel.pid_max`."""
    remedy: str = ""
    """Advice on raising the limit; `{enough}` stands for the required value."""
    used: int | None = None
    """Amount in use by all users of the machine; None if the kernel does not report it."""

    @property
    def available(self) -> int:
        """Return the amount that is left."""
        return max(0, self.maximum - (self.used or 0))


class Need(Struct, frozen=True):
    """Amount of a resource that a lab needs."""

    resource: str
    amount: int
    component: str = ""
    """Part of the lab that needs it, if it is one part: `cbr0 of node n1`."""


class Shortfall(Struct, frozen=True):
    """A need that exceeds a limit."""

    need: Need
    limit: Limit

    def __str__(self) -> str:
        whose = f" ({self.need.component})" if self.need.component else ""
        used = f", {self.limit.used:,} of them taken" if self.limit.used else ""
        enough = self.need.amount + (self.limit.used or 0)
        text = (
            f"{self.limit.resource}{whose}: {self.need.amount:,} needed; "
            f"{self.limit.setting} is {self.limit.maximum:,}{used}"
        )
        return (
            f"{text}\n    → {self.limit.remedy.format(enough=enough)}"
            if self.limit.remedy
            else text
        )


def shortfalls(
    needs: Iterable[Need], limits: Iterable[Limit], already_had: Iterable[Need] = ()
) -> list[Shortfall]:
    """Return every need that exceeds a limit, in the order of the limits.

    already_had: amounts that the lab uses already. They are included in `used`, and subtracted
        where the kernel reports that.
    """
    needed = {need.resource: need for need in needs}
    had_amounts = {need.resource: need.amount for need in already_had}
    result = []
    for limit in limits:
        need = needed.get(limit.resource)
        if need is not None and limit.used is not None:
            need = structs.replace(need, amount=need.amount - had_amounts.get(need.resource, 0))
        if need is not None and need.amount > limit.available:
            result.append(Shortfall(need, limit))
    return result


def require_available(
    lab: str,
    size: str,
    needs: Iterable[Need],
    limits: Iterable[Limit],
    already_had: Iterable[Need] = (),
) -> None:
    """Raise RequirementError with every need of a lab that exceeds a limit.

    size: description of the lab's size for the message.
    """
    missing = shortfalls(needs, limits, already_had)
    if missing:
        lines = "".join(f"\n  {shortfall}" for shortfall in missing)
        raise RequirementError(
            f"lab {lab} does not fit on this machine: {size}{lines}\n"
            "  nothing was changed; see kubenetlab doctor"
        )


def remeasured(limits: Iterable[Limit], current: Iterable[Limit]) -> list[Limit]:
    """Return the limits with the current use.

    The maxima are kept, because some of them cannot be seen in a lab's own namespaces.
    """
    used = {(limit.resource, limit.setting): limit.used for limit in current}
    return [
        structs.replace(limit, used=used.get((limit.resource, limit.setting), limit.used))
        for limit in limits
    ]


def read_limits(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> list[Limit]:
    """Return the limits that apply to this process.

    proc, cgroups: mount points.
    """
    return [limit for limit in _read_all(Path(proc), Path(cgroups)) if limit.maximum < _UNLIMITED]


def _read_all(proc: Path, cgroups: Path) -> Iterator[Limit]:
    kernel = proc / "sys" / "kernel"
    tasks = _task_count(proc)
    yield from _sysctl_limit(PROCESSES, kernel / "pid_max", "kernel.pid_max", tasks)
    yield from _sysctl_limit(PROCESSES, kernel / "threads-max", "kernel.threads-max", tasks)
    if os.geteuid() or not is_first_user_namespace(proc):  # root of the machine is exempt
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)  # a lab raises its soft limits
        if hard != resource.RLIM_INFINITY:
            remedy = (
                "as root: ulimit -Hu {enough}, or nproc in /etc/security/limits.conf "
                "(LimitNPROC= of a systemd unit)"
            )
            yield Limit(
                PROCESSES, hard, "this user's hard RLIMIT_NPROC", remedy, _own_processes(proc)
            )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        remedy = (
            "as root: ulimit -Hn {enough}, or nofile in /etc/security/limits.conf "
            "(LimitNOFILE= of a systemd unit)"
        )
        yield Limit(FILES, hard, "the hard RLIMIT_NOFILE", remedy)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        yield Limit(ADDRESS_SPACE, space >> 20, "RLIMIT_AS (ulimit -v)", "ulimit -v unlimited")
    for word, counted in NAMESPACES.items():
        yield from _sysctl_limit(
            counted, proc / "sys" / "user" / f"max_{word}_namespaces", f"user.max_{word}_namespaces"
        )
    yield from _sysctl_limit(
        NEIGHBORS,
        proc / "sys/net/ipv4/neigh/default/gc_thresh3",
        "net.ipv4.neigh.default.gc_thresh3",
    )
    yield Limit(
        BRIDGE_PORTS,
        MAX_BRIDGE_PORTS,
        "the kernel's bridge",
        "use more nodes or fewer pods per node",
    )
    total, available = _memory(proc)
    if total:
        yield Limit(
            MEMORY,
            total,
            "this machine's memory",
            "use fewer pods, or a machine with more memory",
            total - available,
        )
    yield from _cgroup_limits(proc, cgroups)


def _sysctl_limit(counted: str, path: Path, name: str, used: int | None = None) -> Iterator[Limit]:
    value = _number(path)
    if value is not None:
        yield Limit(counted, value, name, f"sudo sysctl -w {name}={{enough}}", used)


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[Limit]:
    """Yield the tightest limits among this process's cgroup and its ancestors."""
    for controller, directories in _cgroup_directories(proc, cgroups):
        pids = [
            Limit(
                PROCESSES,
                maximum,
                f"pids.max of {directory}",
                "raise it: TasksMax= of a systemd unit, docker run --pids-limit {enough}",
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
            for limit in _cgroup_memory_limits(directory)
        ]
        for limits in (pids, memory):
            if finite := [limit for limit in limits if limit.maximum < _UNLIMITED]:
                yield min(finite, key=lambda limit: limit.available)


def _cgroup_memory_limits(directory: Path) -> Iterator[Limit]:
    """Yield a cgroup's memory limit, v1 or v2; inactive page cache does not count as used."""
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
            remedy = "raise it: MemoryMax= of a systemd unit, docker run --memory {enough}m"
            yield Limit(
                MEMORY,
                maximum >> 20,
                f"{maximum_file} of {directory}",
                remedy,
                max(0, used - cached) >> 20,
            )


def _cgroup_directories(proc: Path, cgroups: Path) -> Iterator[tuple[str, Sequence[Path]]]:
    """Yield each controller and the directories from this process's cgroup up to the root.

    The controller is empty for cgroup v2, where one hierarchy has all of them.
    """
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and not {"pids", "memory"} & set(controllers.split(",")):
            continue
        mounts = [cgroups / controllers] if controllers else [cgroups, cgroups / "unified"]
        for root in mounts:
            own = Path(os.path.normpath(f"{root}/{path}"))
            ancestors = [
                directory
                for directory in (own, *own.parents)
                if directory == root or root in directory.parents
            ]
            yield controllers, [directory for directory in ancestors if directory.is_dir()]


def _task_count(proc: Path) -> int | None:
    """Return the machine's number of threads: the second half of `2/162` in /proc/loadavg."""
    fields = " ".join(_lines(proc / "loadavg")).split()
    return int(fields[3].partition("/")[2]) if len(fields) > 3 else None


def _own_processes(proc: Path) -> int:
    """Return the number of this user's processes."""
    count = 0
    for entry in os.scandir(proc):
        try:
            count += entry.name.isdigit() and entry.stat().st_uid == os.geteuid()
        except OSError:
            continue
    return count


def _memory(proc: Path) -> tuple[int, int]:
    """Return total and available memory in MB."""
    values = {
        name: int(rest.split()[0]) >> 10
        for name, _, rest in (line.partition(":") for line in _lines(proc / "meminfo"))
    }
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)


def _number(path: Path) -> int | None:
    """Return the number in a file; None if the file does not exist or contains `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
