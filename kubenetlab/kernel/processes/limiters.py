"""What limits the memory and the processes of a container with a real command on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.kernel.processes.cgroups import CONTROLLERS, MEMORY, PIDS, Parent, read_parents
from kubenetlab.kernel.processes.rlimits import limits_processes

REMEDY: Final = "run the lab where its user may make cgroups: systemd-run --user --scope -p Delegate=yes kubenetlab up …, or as root"


def limiters(
    parents: Sequence[Parent] | None = None, *, has_nproc: bool | None = None
) -> Mapping[str, str]:
    """Return for each controller what takes its place, in words; empty: nothing does.

    parents: where groups can be made; None: find out. has_nproc: whether RLIMIT_NPROC works in a lab; None: find out.
    """
    found = {MEMORY: "RLIMIT_DATA of each process", PIDS: ""}
    if has_nproc if has_nproc is not None else limits_processes(in_new_namespace=os.geteuid() != 0):
        found[PIDS] = "RLIMIT_NPROC of the lab's user"
    for parent in read_parents() if parents is None else parents:
        found |= dict.fromkeys(
            parent.controllers, f"a cgroup (version {parent.version}) below {parent.directory}"
        )
    return found


def has_groups(found: Mapping[str, str]) -> bool:
    """Return True where cgroups limit both memory and processes."""
    return all("cgroup" in found[name] for name in CONTROLLERS)
