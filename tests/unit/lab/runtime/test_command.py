"""Real commands: what becomes of one that cannot begin."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import patiently

PROBE = "from kubenetlab.lab.runtime import command; command.main(None, {'beside': (4194305, 1), 'argv': ['true']})"
"""A probe beside a process that there cannot be: 4194304 is the kernel's PID_MAX_LIMIT."""


def test_a_probe_of_a_container_that_has_just_ended() -> None:
    """It says so, in the event of the probe's failure, and not in a traceback."""
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
