"""A real program of this machine, in place of a stand-in: a process of its own inside the pod."""

from __future__ import annotations

from typing import Any

from kubenetlab.api.containers import Container, SecurityContext
from kubenetlab.programs import Setup

IS_PROCESS = True
READS_ARGUMENTS = True


def configure_command(container: Container, grace_s: int) -> Setup:
    """Its words, where it begins and how long it may take to end; it listens where it likes, so nothing is known of its ports."""
    asked = (container.security_context or SecurityContext()).capabilities
    options: dict[str, Any] = {"argv": [*container.command, *container.args], "working_dir": container.working_dir, "grace_s": grace_s}
    if asked.add or asked.drop:
        options["capabilities"] = {"add": list(asked.add), "drop": list(asked.drop)}
    return Setup("command", options)
