"""Resources of a running lab by /proc: memory, processor time, and recovery of a killed agent."""

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
    """Proportional set size (PSS) in megabytes."""

    agent: float
    all: float


def memory() -> Memory:
    """Return the memory of the lab's processes, with the pause processes of its pods."""
    inspected = Client(LAB).get(API)
    return Memory(
        _pss_mb(inspected["agent_pid"]), sum(map(_pss_mb, processes(inspected["init_pid"])))
    )


def load(seconds: float) -> float:
    """Return the processor time of an idle lab, in percent of one processor."""
    init = Client(LAB).init_pid
    pids = [pid for pid in processes(init) if not _is_pause(pid)]
    before, started = _ticks(pids), time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - started
    return 100 * (_ticks(pids) - before) / TICKS_OF_A_SECOND / elapsed


def return_of_the_agent() -> float:
    """Return the seconds from `kill -9` of the agent to the next reply of the lab's API."""
    client = Client(LAB)
    agent: int = client.get(API)["agent_pid"]
    started = time.perf_counter()
    os.kill(agent, signal.SIGKILL)
    client.get(FIRST_ANSWER)  # the client retries if the dying agent closes the connection
    return time.perf_counter() - started


def processes(pid: int) -> list[int]:
    """Return the pids of a process and of all its descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(descendant for child in children for descendant in processes(child))]


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0  # the process has exited
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024


def _ticks(pids: list[int]) -> int:
    """Return user and system time of processes and of their reaped children, in clock ticks."""
    return sum(
        sum(map(int, stat.rpartition(") ")[2].split()[11:15]))
        for pid in pids
        if (stat := _stat(pid))
    )


def _stat(pid: int) -> str:
    """Return /proc/PID/stat, or "" if the process has exited."""
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""


def _is_pause(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").rpartition("/")[2].startswith(PAUSE)
    except OSError:
        return False
