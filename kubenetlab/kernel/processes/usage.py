"""Processes and memory of process trees, from /proc.

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
"""Indexes behind the command's name in /proc/PID/stat."""


class Usage(Struct, frozen=True):
    """What a process and its descendants use."""

    processes: int
    memory_bytes: int
    """Proportional set size: a page that several processes share is divided among them."""
    age_s: float
    """Since the first process was started."""


def usage(roots: Iterable[int]) -> dict[int, Usage]:
    """Return the usage of each process tree by the pid of its root, without roots that have ended."""
    wanted = set(roots)
    parents, ages = {}, {}
    for pid, fields in _stats():
        parents[pid] = int(fields[_PPID])
        if pid in wanted:
            ages[pid] = (
                time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_TIME]) / _TICKS_PER_S
            )
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found = {}
    for root, age_s in ages.items():
        tree = list(_descendants(root, children))
        found[root] = Usage(len(tree), sum(map(_memory_bytes, tree)), max(0.0, age_s))
    return found


def _stats() -> Iterator[tuple[int, list[bytes]]]:
    """Yield pid and the fields of /proc/PID/stat behind the command's name, which may hold blanks and brackets."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (text := _read(f"/proc/{name}/stat")):
            yield int(name), text.rpartition(b")")[2].split()


def _descendants(root: int, children: dict[int, list[int]]) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())


def _memory_bytes(pid: int) -> int:
    """Return the proportional set size; the resident size of a process whose memory map this user must not read; 0 for an ended one."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    resident = _read(f"/proc/{pid}/statm").split()
    return int(resident[1]) * _PAGE_BYTES if resident else 0


def _read(path: str) -> bytes:
    """Return a file's bytes; nothing for a process that has ended, or that is another user's."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""
