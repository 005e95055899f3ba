"""Number of processes and memory of process trees, from /proc.

Source: proc(5): /proc/PID/stat, smaps_rollup and statm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PPID, _START_TIME = 1, 19
"""Indexes of the fields after the command's name in /proc/PID/stat."""


class Usage(Struct, frozen=True):
    """Resources used by a process and its descendants."""

    processes: int
    memory_bytes: int
    """Proportional set size: a page shared by several processes is divided among them."""
    age_s: float
    """Time since the root process started, in seconds."""


def usage(roots: Iterable[int]) -> dict[int, Usage]:
    """Return the usage of each process tree by the pid of its root; omit roots that have exited."""
    root_pids = set(roots)
    parents, ages = {}, {}
    for pid, fields in _stats():
        parents[pid] = int(fields[_PPID])
        if pid in root_pids:
            ages[pid] = (
                time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_TIME]) / _TICKS_PER_S
            )
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    usages = {}
    for root, age_s in ages.items():
        tree = list(_descendants(root, children))
        usages[root] = Usage(len(tree), sum(map(_memory_bytes, tree)), max(0.0, age_s))
    return usages


def _stats() -> Iterator[tuple[int, list[bytes]]]:
    """Yield pid and fields of /proc/PID/stat after the command's name, which may contain spaces."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (text := _read(f"/proc/{name}/stat")):
            yield int(name), text.rpartition(b")")[2].split()


def _descendants(root: int, children: dict[int, list[int]]) -> Iterator[int]:
    pending = [root]
    while pending:
        pid = pending.pop()
        yield pid
        pending += children.get(pid, ())


def _memory_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 if it has exited.

    If this user may not read the process's memory map, return its resident set size.
    """
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    resident = _read(f"/proc/{pid}/statm").split()
    return int(resident[1]) * _PAGE_BYTES if resident else 0


def _read(path: str) -> bytes:
    """Return a file's content; empty if the process has exited or belongs to another user."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""
