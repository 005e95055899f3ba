"""Number of processes, memory and age of process trees."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from kubenetlab.kernel.processes.usage import usage

CHILD = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'])"
)


def test_usage_includes_all_descendants() -> None:
    """The age is that of the root; a root that has exited is left out."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tree:
        assert tree.stdin is not None
        assert tree.stdout is not None
        tree.stdout.readline()  # the grandchild runs
        usages = usage([tree.pid, os.getpid()])
        tree.stdin.close()
        tree.wait()
    assert usages[tree.pid].processes == 2
    assert 1 << 20 < usages[tree.pid].memory_bytes < 1 << 30
    assert 0 <= usages[tree.pid].age_s <= time.monotonic() - started + 0.1
    assert usages[os.getpid()].processes >= 3
    assert usages[os.getpid()].memory_bytes > usages[tree.pid].memory_bytes
    assert usage([tree.pid]) == {}
