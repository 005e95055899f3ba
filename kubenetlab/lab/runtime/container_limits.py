"""Limits of containers with real commands: cgroups where this lab can make them, else limits of each process.

Every such container has a limit of processes, so that a fork bomb in a pod does not use up the machine's; a limit of memory it
has where its manifest asks for one. init makes a container's group before it forks the command and removes it when the command
has ended. The command enters its group itself, before it opens anything; so does the command of a probe or a hook, which runs
in the same container.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from kubenetlab.kernel.processes import cgroups
from kubenetlab.kernel.processes.cgroups import MEMORY, PIDS, ContainerGroup, LabGroups, Limits
from kubenetlab.kernel.processes.rlimits import limits_processes
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.log import log

MAX_PIDS: Final = 4096
"""Processes and threads of one container. Kubernetes has no field for it: a kubelet's podPidsLimit is for all pods of its node."""


class ContainerLimits:
    """The limits of a lab's containers, as init keeps them."""

    def __init__(self, boot: LabContext) -> None:
        self._boot = boot
        self._groups: LabGroups | None = None
        self._groups_of: dict[str, ContainerGroup] = {}
        self._limits_of: dict[str, dict[str, Any]] = {}
        """What `begin` has returned for each container that runs, by the run of its own process."""

    def begin(self, run: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make the groups of a container; return what its command needs to limit itself (`enter_groups`)."""
        limits = Limits(arguments.get("memory_limit", 0), MAX_PIDS)
        group = self._made(f"{arguments['container']}-{run}", limits)
        enforced = group.enforced if group is not None else ()
        if group is not None:
            self._groups_of[run] = group
        entries = group.entries if group is not None else []
        self._limits_of[run] = {
            "entries": entries,
            "rlimits": _rlimits(limits, enforced),
            "memory": limits.memory,
        }
        return self._limits_of[run]

    def of(self, run: str) -> dict[str, Any] | None:
        """Return what another command in the same container needs to limit itself; None where nothing limits that container."""
        return self._limits_of.get(run)

    def end(self, run: str) -> dict[str, Any]:
        """Remove the groups of a container that has ended; return `{"oom_limit": BYTES}` if it exceeded its memory limit."""
        self._limits_of.pop(run, None)
        group = self._groups_of.pop(run, None)
        if group is None or self._groups is None:
            return {}
        is_killed = group.oom_kills() > 0
        self._groups.discard(group)
        return {"oom_limit": group.limits.memory} if is_killed else {}

    def _made(self, name: str, limits: Limits) -> ContainerGroup | None:
        """Return a container's groups; None where there can be none."""
        if self._groups is None:
            token = os.urandom(4).hex()  # other labs of this name may be in other run directories
            self._groups = LabGroups(
                f"{cgroups.PREFIX}{self._boot.lab}-{token}",
                cgroups.read_parents(),
                self._write_down,
            )
        try:
            return self._groups.make(name, limits)
        except OSError as error:
            log(
                f"container {name} is limited by rlimits: its cgroup cannot be made ({error.strerror}: {error.filename})"
            )
            return None

    def _write_down(self, directories: Sequence[str]) -> None:
        if directories:
            Path(self._boot.path(rundir.CGROUPS)).write_bytes(msgspec.json.encode(directories))


def enter_groups(limits: dict[str, Any]) -> dict[str, int]:
    """Move this process, which becomes a container's command, into the groups that `ContainerLimits.begin` has made for it.

    Return what is to be limited by `apply_rlimits` right before the command begins: this process itself may need more.
    """
    rlimits: dict[str, int] = limits["rlimits"]
    try:
        cgroups.enter(limits["entries"])
    except OSError as error:
        print(
            f"the container's cgroup cannot be entered ({error.strerror}): limits are those of single processes",
            flush=True,
        )
        return {MEMORY: limits["memory"], **rlimits}
    return rlimits


def remove_groups(directory: Path) -> None:
    """Remove the cgroups of a dead lab, by its run directory; those that are gone already, or of no lab, are left out."""
    with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
        left = cgroups.remove_all(
            msgspec.json.decode((directory / rundir.CGROUPS).read_bytes(), type=list[str])
        )
        for group in left:
            log(f"cgroup {group} cannot be removed yet")


def _rlimits(limits: Limits, enforced: Sequence[str]) -> dict[str, int]:
    """Return the limits of single processes for what no cgroup enforces."""
    found = {}
    if MEMORY not in enforced and limits.memory:
        found[MEMORY] = limits.memory
    if PIDS not in enforced and limits_processes():
        found[PIDS] = limits.pids + sum(
            name.isdigit() for name in os.listdir("/proc")
        )  # beside those that the lab has already
    return found
