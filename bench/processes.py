"""What the processes of a running lab take: memory, processor time, and how soon a killed agent is back. By /proc alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from bench.measure import LAB
from kubenetlab.lab.client import Client
from kubenetlab.lab.rundir import PAUSE

API = "/apis/kubenetlab.dev/v1alpha1/inspect"
FIRST_ANSWER = "/api/v1/namespaces"
TICKS_OF_A_SECOND = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Megabytes: each page is shared out among those who use it (PSS)."""

    agent: float
    all: float


def memory() -> Memory:
    """What the lab's processes hold now, the pauses of its pods included."""
    seen = Client(LAB).get(API)
    return Memory(_pss_mb(seen["agent_pid"]), sum(map(_pss_mb, processes(seen["init_pid"]))))


def load(seconds: float) -> float:
    """Processor time that the lab takes while nobody asks for anything, in per cent of one processor."""
    init = Client(LAB).init_pid
    running = [pid for pid in processes(init) if not _is_pause(pid)]
    before, begun = _ticks(running), time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - begun
    return 100 * (_ticks(running) - before) / TICKS_OF_A_SECOND / took


def return_of_the_agent() -> float:
    """Seconds from `kill -9` of the agent to the next answer of the lab's API, which the next agent gives."""
    client = Client(LAB)
    agent: int = client.get(API)["agent_pid"]
    begun = time.perf_counter()
    os.kill(agent, signal.SIGKILL)
    client.get(FIRST_ANSWER)  # is asked again when a dying agent takes the connection with it
    return time.perf_counter() - begun


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(found for child in children for found in processes(child))]


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0  # it has ended
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024


def _ticks(pids: list[int]) -> int:
    """User and system time, their own and that of children who have ended."""
    return sum(
        sum(map(int, stat.rpartition(") ")[2].split()[11:15]))
        for pid in pids
        if (stat := _stat(pid))
    )


def _stat(pid: int) -> str:
    """Nothing of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""


def _is_pause(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").rpartition("/")[2].startswith(PAUSE)
    except OSError:
        return False
