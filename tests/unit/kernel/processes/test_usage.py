"""Processes and memory of process trees."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from kubenetlab.kernel.processes.usage import usage

CHILD = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'])"
)


def test_a_tree_is_counted_with_all_its_descendants() -> None:
    """Processes, memory and the age of the first one; a root that has ended is left out."""
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tree:
        assert tree.stdin is not None
        assert tree.stdout is not None
        tree.stdout.readline()  # the grandchild runs
        found = usage([tree.pid, os.getpid()])
        tree.stdin.close()
        tree.wait()
    assert found[tree.pid].processes == 2
    assert 1 << 20 < found[tree.pid].memory_bytes < 1 << 30
    assert 0 <= found[tree.pid].age_s <= time.monotonic() - begun + 0.1
    assert found[os.getpid()].processes >= 3
    assert found[os.getpid()].memory_bytes > found[tree.pid].memory_bytes
    assert usage([tree.pid]) == {}
