"""A real program of this machine, in place of a stand-in: a process of its own inside the pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubenetlab.api.containers import Container, SecurityContext
from kubenetlab.api.pods import REAL_COMMANDS_ANNOTATION
from kubenetlab.api.quantity import whole
from kubenetlab.programs import Setup

IS_PROCESS = True
READS_ARGUMENTS = True


def runs_real_command(
    annotations: Mapping[str, str], container: Container, real_commands: tuple[str, ...]
) -> bool:
    """Return True when a container's own command is run: its pod asks for it, or the lab runs this one."""
    is_asked = annotations.get(REAL_COMMANDS_ANNOTATION) == "true"
    return bool(container.command) and (is_asked or container.command[0] in real_commands)


def configure_command(container: Container, grace_s: int) -> Setup:
    """Its words, where it begins and how long it may take to end; it listens where it likes, so nothing is known of its ports."""
    asked = (container.security_context or SecurityContext()).capabilities
    options: dict[str, Any] = {
        "argv": [*container.command, *container.args],
        "working_dir": container.working_dir,
        "grace_s": grace_s,
    }
    if asked.add or asked.drop:
        options["capabilities"] = {"add": list(asked.add), "drop": list(asked.drop)}
    if limit := memory_limit(container):
        options["memory_limit"] = limit
    return Setup("command", options)


def memory_limit(container: Container) -> int:
    """Return the memory that a container may use, in bytes; 0 where nothing limits it.

    Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container_linux.go (1.33), where a limit of 0 is no limit.
    """
    return (
        whole(container.resources.limits.get("memory", 0)) if container.resources is not None else 0
    )
