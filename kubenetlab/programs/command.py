"""Commands of this machine that run as processes of their own inside the pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubenetlab.api.containers import Container, SecurityContext
from kubenetlab.api.pods import REAL_COMMANDS_ANNOTATION
from kubenetlab.api.quantity import rounded_up
from kubenetlab.programs import Setup

IS_PROCESS = True
READS_ARGUMENTS = True


def runs_own_command(
    annotations: Mapping[str, str], container: Container, real_commands: tuple[str, ...]
) -> bool:
    """Return True when the container's own command runs.

    Either its pod requests it by annotation, or the lab runs this command (`real_commands`).
    """
    is_requested = annotations.get(REAL_COMMANDS_ANNOTATION) == "true"
    return bool(container.command) and (is_requested or container.command[0] in real_commands)


def configure_command(container: Container, grace_s: int) -> Setup:
    """Return the setup: argument vector, working directory, grace period in seconds and limits.

    It has no listeners, because the ports of the process are not known.
    """
    capabilities = (container.security_context or SecurityContext()).capabilities
    options: dict[str, Any] = {
        "argv": [*container.command, *container.args],
        "working_dir": container.working_dir,
        "grace_s": grace_s,
    }
    if capabilities.add or capabilities.drop:
        options["capabilities"] = {"add": list(capabilities.add), "drop": list(capabilities.drop)}
    if limit_bytes := memory_limit(container):
        options["memory_limit"] = limit_bytes
    return Setup("command", options)


def memory_limit(container: Container) -> int:
    """Return the container's memory limit in bytes; 0 without a limit.

    Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container_linux.go (1.33), where a
    limit of 0 means no limit.
    """
    return (
        rounded_up(container.resources.limits.get("memory", 0))
        if container.resources is not None
        else 0
    )
