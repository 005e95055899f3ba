"""Symlinks in /run/netns to the lab's network namespaces, so that `ip netns exec` finds them.

A symlink does not keep a namespace alive. Its target is in the lab's own /proc, which is reached
through init's root directory in the outer /proc: /proc/INIT/root/proc/PID/ns/net.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from kubenetlab.names import run_netns_name


class NetnsLinks:
    """The symlinks of one lab. They are a convenience: a lab works without them."""

    def __init__(self, lab: str, run_netns_fd: int, outer_proc_fd: int) -> None:
        """Manage the symlinks of a lab.

        run_netns_fd:  descriptor of /run/netns, or -1 if it cannot be written: nothing is done.
        outer_proc_fd: descriptor of the /proc of the PID namespace in which `up` was called.
        """
        self._lab = lab
        self._run_netns = run_netns_fd
        self._outer_proc = outer_proc_fd
        self._init = 0
        """Cached pid of init in the outer PID namespace; 0 if it is not known yet."""
        self._owners: dict[str, str] = {}
        """Name → namespace it leads to.

        A pod's successor may have the same name before the pod is gone.
        """

    def adopt(self, pids: Mapping[str, int]) -> None:
        """Correct the links that a former agent left: one for each of these namespaces, no others.

        pids: pid of each namespace's pause process.
        """
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
        """Return False if a link is missing, or leads to the process of a former sandbox."""
        try:
            return os.readlink(name, dir_fd=self._run_netns) == self.path(pid)
        except OSError:
            return False

    def add(self, netns: str, pid: int) -> None:
        """Create the link of a namespace, given by the pid of its pause process."""
        if self._run_netns < 0:
            return
        name = run_netns_name(self._lab, netns)
        self._owners[name] = netns
        try:
            target = self.path(pid)
        except OSError:
            return  # too many open files
        try:
            os.symlink(target, name, dir_fd=self._run_netns)
        except FileExistsError:
            self._unlink(name)
            with suppress(OSError):
                os.symlink(target, name, dir_fd=self._run_netns)
        except OSError:
            pass

    def remove(self, netns: str) -> None:
        """Remove the link of a namespace, unless it leads to another one of the same name."""
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
        """Return the outer path of the network namespace of one of the lab's processes.

        Raises OSError.
        """
        return f"/proc/{self.init_pid}/root/proc/{pid}/ns/net"

    @property
    def init_pid(self) -> int:
        """The pid of init in the outer PID namespace."""
        self._init = self._init or self.outer_pid(1)
        return self._init

    def outer_pid(self, pid: int) -> int:
        """Return the pid of a process in the PID namespace of `up`; 0 if it has exited.

        The kernel shows it in the fdinfo of a pidfd, read through the outer /proc.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return 0
        try:
            info = os.open(
                f"self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._outer_proc
            )
            try:
                fields = os.read(info, 4096)
            finally:
                os.close(info)
        finally:
            os.close(pidfd)
        outer = int(fields.partition(b"\nPid:")[2].partition(b"\n")[0] or 0)
        return max(0, outer)  # the kernel shows -1 for a process that has exited
