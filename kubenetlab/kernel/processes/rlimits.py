"""Limits of single processes, for containers where no cgroup can be made.

Memory is RLIMIT_DATA: since Linux 4.7 it counts the private writable memory of a process, which is what most programs grow by.
RLIMIT_AS would also count address space that is only reserved, of which runtimes such as Go and Java take gigabytes at the start.
A process at its limit is refused more memory (ENOMEM); nothing kills it, and each process of a container has the limit for itself.

The number of processes is RLIMIT_NPROC, which the kernel does not apply to root of the machine. In a user namespace it counts
the user's processes there since Linux 5.14, and those on the whole machine before: only the former is of use.

Source: getrlimit(2); mm/mmap.c may_expand_vm(); kernel/fork.c copy_process(); kernel/ucount.c is_rlimit_overlimit() (6.12).
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Final

from kubenetlab.kernel.processes.permissions import is_first_user_namespace

_COUNTED_BY_NAMESPACE: Final = (5, 14)


def apply_rlimits(memory: int = 0, pids: int = 0) -> None:
    """Limit this process and its children to `memory` bytes and to `pids` processes of their user; 0: no limit."""
    for which, amount in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_NPROC, pids)):
        if amount:
            _, hard = resource.getrlimit(which)
            amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
            resource.setrlimit(which, (amount, amount))


def limits_processes(
    release: str = "", proc: Path = Path("/proc"), *, in_new_namespace: bool = False
) -> bool:
    """Return True where RLIMIT_NPROC limits the processes of this user namespace alone.

    release: of the kernel, as `uname -r` prints it; empty: the running one's.
    in_new_namespace: the question is about a user namespace that this process would make.
    """
    match = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    is_new = match is not None and (int(match[1]), int(match[2])) >= _COUNTED_BY_NAMESPACE
    return is_new and (in_new_namespace or not is_first_user_namespace(proc))
