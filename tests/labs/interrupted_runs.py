"""Runs of pytest that end in the middle of a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.labs.lab import wait_for
from tests.patience import patiently
from tests.unit.library.test_pytest_plugin import OPTIONS, ROOT

BLOCK = """
    Path(__file__).with_name("ready").touch()
    Path(__file__).with_name("pipe").read_text()
"""
"""Last lines of the test in which a run waits."""


@contextmanager
def waiting_run(project: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the tests of a folder in a process group of its own; yield when one of them waits."""
    os.mkfifo(project / "pipe")
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", f"--rootdir={project}", *OPTIONS, *options, str(project)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for((project / "ready").exists, "the test to wait")
        yield run
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()


def interrupt(run: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End a run: with SIGKILL pytest alone, with SIGINT all its processes, as Ctrl-C does."""
    if number == signal.SIGKILL:
        run.kill()
    else:
        os.killpg(run.pid, number)
    run.communicate(timeout=patiently(30))
