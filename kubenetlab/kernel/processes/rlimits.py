"""Resource limits of single processes, for containers where no cgroup can be created.

Memory is limited by RLIMIT_DATA: since Linux 4.7 it counts the private writable memory of a
process, by which most programs grow. RLIMIT_AS would also count reserved address space, of which
runtimes such as Go and Java take gigabytes at start. A process at its limit gets ENOMEM and is not
killed. Each process of a container has the limit for itself.

The number of processes is limited by RLIMIT_NPROC, which the kernel does not apply to root of the
machine. Since Linux 5.14 it counts the user's processes in a user namespace. Older kernels count
those on the whole machine, so the limit is not used there.

Source: getrlimit(2); mm/mmap.c may_expand_vm(); kernel/fork.c copy_process(); kernel/ucount.c
is_rlimit_overlimit() (6.12).
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Final

from kubenetlab.kernel.processes.permissions import is_first_user_namespace

_COUNTED_BY_NAMESPACE: Final = (5, 14)
"""First Linux version that counts processes per user namespace."""


def apply_rlimits(memory: int = 0, pids: int = 0) -> None:
    """Limit this process and its children.

    memory: bytes per process; 0: no limit.
    pids: number of processes of their user; 0: no limit.
    """
    for which, amount in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_NPROC, pids)):
        if amount:
            _, hard = resource.getrlimit(which)
            amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
            resource.setrlimit(which, (amount, amount))


def limits_processes(
    release: str = "", proc: Path = Path("/proc"), *, in_new_namespace: bool = False
) -> bool:
    """Return True if RLIMIT_NPROC counts the processes of this user namespace only.

    release: kernel release as printed by `uname -r`; empty: the running kernel's.
    in_new_namespace: answer for a user namespace that this process would create.
    """
    match = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    is_new = match is not None and (int(match[1]), int(match[2])) >= _COUNTED_BY_NAMESPACE
    return is_new and (in_new_namespace or not is_first_user_namespace(proc))
