"""Forking the lab's processes from init, whose imported modules they share."""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from kubenetlab.kernel import syscalls
from kubenetlab.kernel.processes.identity import ProcessId, open_process
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.log import write_text
from kubenetlab.lab.processes.output import Outputs, become_output
from kubenetlab.lab.processes.progress import send_error

_REPLY_BYTES: Final = 256
"""Maximum size of a helper's reply: a write of that size to a pipe is atomic."""


class Spawner:
    """Forks processes that run a role: in the lab's own namespaces, or in those of a pod."""

    def __init__(
        self, context: LabContext, outputs: Outputs, close_inherited: Callable[[], None]
    ) -> None:
        """Create a spawner.

        outputs:         pipes to the logs of processes in pods.
        close_inherited: closes, in a child, descriptors that only init uses.
        """
        self._context = context
        self._outputs = outputs
        self._close_inherited = close_inherited

    def spawn(self, name: str, role: Role, inherited: tuple[int, ...] = ()) -> int:
        """Fork a process that runs a role; return its pid. Raises OSError.

        inherited: further descriptors to close in the child.
        """
        pid = syscalls.fork()
        if pid:
            return pid
        try:
            for fd in inherited:
                os.close(fd)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            syscalls.set_process_name(f"knl-{name}", f"kubenetlab {self._context.lab} {name}")
            self._close_inherited()
            if name != "agent" and self._context.netns_pool is not None:
                self._context.netns_pool.close()
            role(self._context)
            os._exit(0)
        except BaseException as error:
            write_text(traceback.format_exc())
            if name == "agent":
                send_error(self._context, error)
        finally:
            os._exit(1)

    def spawn_in_pod(
        self, name: str, role: Role, sandbox: ProcessId, log: str, *, has_times: bool
    ) -> int:
        """Fork a process into the namespaces of a pause process; return its pid. Raises OSError.

        log:       path of the file to which init writes the output of the process.
        has_times: as in `Outputs.open`.
        """
        reading, writing = self._outputs.open(log, has_times=has_times)

        def run_logged(context: LabContext) -> None:
            become_output(writing)
            role(context)

        try:
            pid = self._spawn_by_helper(name, run_logged, sandbox)
        except BaseException:
            self._outputs.close(reading)
            raise
        finally:
            os.close(writing)
        self._outputs.set_process(reading, pid)
        return pid

    def _spawn_by_helper(self, name: str, role: Role, sandbox: ProcessId) -> int:
        """Fork a helper that joins the sandbox and forks the process.

        setns() puts only children of the caller into a PID namespace, hence two forks.
        """
        pidfd, reading, writing = open_process(sandbox), -1, -1
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            helper = syscalls.fork()
            if helper == 0:
                inherited = (reading, writing, pidfd)
                _run_helper(writing, lambda: self._spawn_joined(name, role, pidfd, inherited))
            os.close(writing)
            writing = -1
            os.waitpid(helper, 0)
            reply = (
                os.read(reading, _REPLY_BYTES).decode() or f"0 {errno.ESRCH} the sandbox is gone"
            )
            pid, number, error = reply.split(" ", 2)
        finally:
            for fd in (reading, writing, pidfd):
                if fd >= 0:
                    os.close(fd)
        if pid == "0":
            raise OSError(int(number), error)
        return int(pid)

    def _spawn_joined(self, name: str, role: Role, sandbox: int, inherited: tuple[int, ...]) -> int:
        """Join the namespaces of a pidfd's process, then fork."""
        syscalls.setns(
            sandbox,
            syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWPID,
        )
        return self.spawn(name, role, inherited)


def _run_helper(writing: int, spawn: Callable[[], int]) -> NoReturn:
    """Spawn a process, write `PID 0 ` or `0 ERRNO REASON` to a pipe, and exit."""
    try:
        os.write(writing, f"{spawn()} 0 ".encode())
    except OSError as error:
        os.write(writing, f"0 {error.errno} {error.strerror}".encode()[:_REPLY_BYTES])
    finally:
        os._exit(0)
