"""The lab's names in /run/netns: symlinks to its namespaces, so that `ip netns exec` finds them. Nothing is pinned by them.

They lead through the lab's own /proc, which is reached by init's number outside; the kernel tells that through the outer /proc, of which
init kept a descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from kubenetlab.names import run_netns_name


class NetnsLinks:
    """`run_netns` is -1 when there is no /run/netns that may be written to: then nothing is done."""

    def __init__(self, lab: str, run_netns: int, outer_proc: int) -> None:
        self._lab = lab
        self._run_netns = run_netns
        self._outer_proc = outer_proc
        self._init = 0
        """Its pid outside, once somebody has asked."""
        self._owners: dict[str, str] = {}
        """Name → the namespace it leads to: a pod's successor may bear its name before the pod is gone."""

    def adopt(self, pids: Mapping[str, int]) -> None:
        """Bring into line what a former agent left half-done: these namespaces have links that lead to them, and there are no others."""
        if self._run_netns < 0:
            return
        self._owners = {run_netns_name(self._lab, netns): netns for netns in pids}
        for name in os.listdir(f"/proc/self/fd/{self._run_netns}"):
            if name.startswith(f"{self._lab}_") and name not in self._owners:
                self._unlink(name)
        for name, netns in self._owners.items():
            if not self._leads_to(name, pids[netns]):
                self.add(netns, pids[netns])

    def _leads_to(self, name: str, pid: int) -> bool:
        """False where a link is missing, or leads to the process of a former sandbox."""
        try:
            return os.readlink(name, dir_fd=self._run_netns) == self.path(pid)
        except OSError:
            return False

    def add(self, netns: str, pid: int) -> None:
        """A namespace, and the pid of its pause process."""
        if self._run_netns < 0:
            return
        name = run_netns_name(self._lab, netns)
        self._owners[name] = netns
        try:
            target = self.path(pid)
        except OSError:
            return  # no room for a descriptor: a convenience, the lab does without it
        try:
            os.symlink(target, name, dir_fd=self._run_netns)
        except FileExistsError:
            self._unlink(name)
            with suppress(OSError):
                os.symlink(target, name, dir_fd=self._run_netns)
        except OSError:
            pass  # a convenience: the lab does without it

    def remove(self, netns: str) -> None:
        name = run_netns_name(self._lab, netns)
        if self._run_netns >= 0 and self._owners.get(name, netns) == netns:
            self._owners.pop(name, None)
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._run_netns)
        except OSError:
            pass

    def path(self, pid: int) -> str:
        """Where the network namespace of one of our processes is to be found outside. Raises OSError."""
        return f"/proc/{self.init_pid}/root/proc/{pid}/ns/net"

    @property
    def init_pid(self) -> int:
        """Init's number outside."""
        self._init = self._init or self.outer_pid(1)
        return self._init

    def outer_pid(self, pid: int) -> int:
        """One of our processes' number in the namespace that `up` was called in; 0 when it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return 0
        try:
            info = os.open(
                f"self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._outer_proc
            )
            try:
                told = os.read(info, 4096)
            finally:
                os.close(info)
        finally:
            os.close(pidfd)
        return max(0, int(told.partition(b"\nPid:")[2].partition(b"\n")[0] or 0))  # -1: it is gone
