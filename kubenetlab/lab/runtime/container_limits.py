"""Limits of containers with real commands: cgroups if the lab can create them, otherwise rlimits.

Every such container has a limit of processes, so that a fork bomb in a pod does not use up the
machine's processes, and a memory limit if its manifest sets one. Init creates the cgroup of a
container before it forks the command, and removes it when the command has exited. The command
enters the cgroup itself, before it opens anything. So do the commands of probes and hooks, which
run in the same container.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.kernel.processes import cgroups
from kubenetlab.kernel.processes.cgroups import MEMORY, PIDS, ContainerGroup, LabGroups, Limits
from kubenetlab.kernel.processes.rlimits import limits_processes
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.log import log

MAX_PIDS: Final = 4096
"""Maximum number of processes and threads in one container.

Kubernetes has no field for it: the kubelet's podPidsLimit applies to all pods of its node.
"""


class AppliedLimits(Struct, frozen=True):
    """Limits of a container, as its processes apply them to themselves."""

    entries: tuple[str, ...]
    """Files of cgroups that a process writes to in order to enter them."""
    rlimits: dict[str, int]
    """Arguments of `apply_rlimits` for the resources that no cgroup limits."""
    memory: int
    """Memory limit in bytes; 0: no limit."""


class ContainerLimits:
    """Limits of a lab's containers, managed by init."""

    def __init__(self, context: LabContext) -> None:
        self._context = context
        self._groups: LabGroups | None = None
        self._groups_of: dict[str, ContainerGroup] = {}
        self._limits_of: dict[str, AppliedLimits] = {}
        """Result of `begin` for each running container, by the run of its own process."""

    def begin(self, run: str, container: str, memory_limit: int) -> AppliedLimits:
        """Create the cgroups of a container; return the argument of its `enter_groups`.

        memory_limit: bytes; 0 for no limit.
        """
        limits = Limits(memory_limit, MAX_PIDS)
        group = self._create(f"{container}-{run}", limits)
        enforced = group.enforced if group is not None else ()
        if group is not None:
            self._groups_of[run] = group
        entries = group.entries if group is not None else []
        self._limits_of[run] = AppliedLimits(
            tuple(entries), _rlimits(limits, enforced), limits.memory
        )
        return self._limits_of[run]

    def of(self, run: str) -> AppliedLimits | None:
        """Return the argument of `enter_groups` for another command in the same container.

        Return None for a container without limits.
        """
        return self._limits_of.get(run)

    def end(self, run: str) -> int:
        """Remove the cgroups of a container that has exited.

        Return its memory limit in bytes if it has exceeded it, otherwise 0.
        """
        self._limits_of.pop(run, None)
        group = self._groups_of.pop(run, None)
        if group is None or self._groups is None:
            return 0
        is_killed = group.oom_kills() > 0
        self._groups.discard(group)
        return group.limits.memory if is_killed else 0

    def _create(self, name: str, limits: Limits) -> ContainerGroup | None:
        """Create the cgroups of a container; return None if that is not possible."""
        if self._groups is None:
            # Labs in other run directories may have the same name.
            token = os.urandom(4).hex()
            self._groups = LabGroups(
                f"{cgroups.PREFIX}{self._context.lab}-{token}",
                cgroups.read_parents(),
                self._record,
            )
        try:
            return self._groups.make(name, limits)
        except OSError as error:
            log(
                f"container {name} is limited by rlimits: "
                f"its cgroup cannot be created ({error.strerror}: {error.filename})"
            )
            return None

    def _record(self, directories: Sequence[str]) -> None:
        """Write the lab's cgroups to the run directory, for their removal after the lab's death."""
        if directories:
            Path(self._context.path(rundir.CGROUPS)).write_bytes(msgspec.json.encode(directories))


def enter_groups(limits: AppliedLimits) -> dict[str, int]:
    """Move this process into the cgroups that `ContainerLimits.begin` created for its container.

    Return the arguments of `apply_rlimits`, which must be called right before the command is
    executed: until then, this process may need more.
    """
    try:
        cgroups.enter(limits.entries)
    except OSError as error:
        print(
            f"the container's cgroup cannot be entered ({error.strerror}): "
            "its limits apply to each process instead",
            flush=True,
        )
        return {MEMORY: limits.memory, **limits.rlimits}
    return limits.rlimits


def remove_groups(directory: Path) -> None:
    """Remove the cgroups of a dead lab that its run directory records."""
    with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
        left = cgroups.remove_all(
            msgspec.json.decode((directory / rundir.CGROUPS).read_bytes(), type=list[str])
        )
        for group in left:
            log(f"cgroup {group} cannot be removed yet")


def _rlimits(limits: Limits, enforced: Sequence[str]) -> dict[str, int]:
    """Return the rlimits for the resources that no cgroup limits."""
    rlimits = {}
    if MEMORY not in enforced and limits.memory:
        rlimits[MEMORY] = limits.memory
    if PIDS not in enforced and limits_processes():
        # The rlimit counts all processes of the user, so the lab's existing ones are added.
        rlimits[PIDS] = limits.pids + sum(name.isdigit() for name in os.listdir("/proc"))
    return rlimits
