"""Commands of this machine that run as processes of their own inside the pod."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, to_builtins

from kubenetlab.api.containers import Container, SecurityContext
from kubenetlab.api.pods import REAL_COMMANDS_ANNOTATION
from kubenetlab.api.values.quantity import rounded_up
from kubenetlab.programs import Setup

IS_PROCESS = True
READS_ARGUMENTS = True


class ChangedCapabilities(Struct, frozen=True, omit_defaults=True):
    """Changes of a container's capabilities."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class CommandOptions(Struct, frozen=True, omit_defaults=True):
    """Options of the program `command`."""

    argv: tuple[str, ...]
    working_dir: str = ""
    """Empty: the root directory."""
    grace_s: float = 30.0
    """Time allowed for the process to exit after SIGTERM, in seconds."""
    capabilities: ChangedCapabilities = ChangedCapabilities()
    memory_limit: int = 0
    """Bytes; 0: no limit."""


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
    options = CommandOptions(
        (*container.command, *container.args),
        container.working_dir,
        grace_s,
        ChangedCapabilities(tuple(capabilities.add), tuple(capabilities.drop)),
        memory_limit(container),
    )
    return Setup("command", to_builtins(options))


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
