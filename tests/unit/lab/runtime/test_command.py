"""Real commands that cannot be started."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import patiently

PROBE = """
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.runtime import command
from kubenetlab.programs.command import CommandOptions

command.main_beside(None, CommandOptions(("true",)), None, ProcessId(4194305, 1))
"""
"""Probe in the container of a process that cannot exist: the kernel's PID_MAX_LIMIT is 4194304."""


def test_a_probe_of_an_exited_container_prints_the_reason() -> None:
    """Its output, which the event of the failed probe shows, contains no traceback."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(20),
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        127,
        "the container has exited\n",
        "",
    )
