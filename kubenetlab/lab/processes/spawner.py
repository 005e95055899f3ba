"""Forking the lab's processes from init, whose imported modules they share."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from contextlib import ExitStack

from kubenetlab.kernel import syscalls
from kubenetlab.kernel.processes.identity import ProcessId, open_process
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.log import write_text
from kubenetlab.lab.processes.output import Outputs, become_output
from kubenetlab.lab.processes.progress import send_error


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
            pid = self._spawn_joined(name, run_logged, sandbox)
        except BaseException:
            self._outputs.close(reading)
            raise
        finally:
            os.close(writing)
        self._outputs.set_process(reading, pid)
        return pid

    def _spawn_joined(self, name: str, role: Role, sandbox: ProcessId) -> int:
        """Fork a process that joins a sandbox before it runs its role; return its pid.

        setns() puts only later children of the caller into a PID namespace: this process joins it
        for the moment of the fork, and the child joins the other namespaces. If the pause process
        dies in between, the child fails, and its exit is reported like any other.
        """
        with ExitStack() as stack:
            pidfd = open_process(sandbox)
            stack.callback(os.close, pidfd)
            home = syscalls.open_namespace("pid")
            stack.callback(os.close, home)

            def run_joined(context: LabContext) -> None:
                syscalls.setns(
                    pidfd, syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
                )
                os.close(pidfd)
                role(context)

            syscalls.setns(pidfd, syscalls.CLONE_NEWPID)
            try:
                return self.spawn(name, run_joined, (home,))
            finally:
                _return_home(home)


def _return_home(pid_namespace: int) -> None:
    """Let later children be in a PID namespace again. Raises RuntimeError, which ends init."""
    try:
        syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
    except OSError as error:
        raise RuntimeError(f"cannot leave the PID namespace of a pod: {error.strerror}") from None
