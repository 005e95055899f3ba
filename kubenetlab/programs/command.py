"""A real program of this machine, in place of a stand-in: a process of its own inside the pod."""

from __future__ import annotations

from kubenetlab.api.pods import Container
from kubenetlab.programs import Setup

IS_PROCESS = True
READS_ARGUMENTS = True


def configure_command(container: Container, grace_s: int) -> Setup:
    """Its words, where it begins and how long it may take to end; it listens where it likes, so nothing is known of its ports."""
    options = {"argv": [*container.command, *container.args], "working_dir": container.working_dir, "grace_s": grace_s}
    return Setup("command", options)
