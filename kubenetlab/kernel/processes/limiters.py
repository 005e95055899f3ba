"""The mechanism that limits memory and processes of containers with real commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.kernel.processes.cgroups import CONTROLLERS, MEMORY, PIDS, Parent, read_parents
from kubenetlab.kernel.processes.rlimits import limits_processes

REMEDY: Final = (
    "run the lab where its user may create cgroups: "
    "systemd-run --user --scope -p Delegate=yes kubenetlab up …, or as root"
)


def limiters(
    parents: Sequence[Parent] | None = None, *, has_nproc: bool | None = None
) -> Mapping[str, str]:
    """Return controller → description of what enforces its limits; empty: nothing does.

    parents: where cgroups can be created; None: detect it.
    has_nproc: whether RLIMIT_NPROC works in a lab; None: detect it.
    """
    result = {MEMORY: "RLIMIT_DATA of each process", PIDS: ""}
    if has_nproc if has_nproc is not None else limits_processes(in_new_namespace=os.geteuid() != 0):
        result[PIDS] = "RLIMIT_NPROC of the lab's user"
    for parent in read_parents() if parents is None else parents:
        result |= dict.fromkeys(
            parent.controllers, f"a cgroup (version {parent.version}) below {parent.directory}"
        )
    return result


def has_groups(by_controller: Mapping[str, str]) -> bool:
    """Return True if cgroups limit both memory and processes."""
    return all("cgroup" in by_controller[name] for name in CONTROLLERS)
